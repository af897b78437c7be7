"""Names of evaluator weights: hub names, local folders, and the toybox's own shipped ones. Imports no
torch."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from dti_repro.errors import InputError

LOCAL = "local-dir:"
TOYBOX = "toybox:"
_SHIPPED = Path(__file__).parents[1] / "toybox" / "weights"


def resolve(checkpoint: str) -> str:
    """The name that timm and open_clip understand: ``toybox:reader`` becomes ``local-dir:<shipped
    folder>/reader``.

    Any other name is returned unchanged. Raises InputError where a named folder does not exist.
    """
    if checkpoint.startswith(TOYBOX):
        checkpoint = f"{LOCAL}{_SHIPPED / checkpoint.removeprefix(TOYBOX)}"
    if checkpoint.startswith(LOCAL) and not Path(checkpoint.removeprefix(LOCAL)).is_dir():
        raise InputError(f"evaluator weights: there is no folder {checkpoint.removeprefix(LOCAL)}")
    return checkpoint


def folder(checkpoint: str) -> Path | None:
    """The folder behind a resolved name, None for a hub name."""
    name = resolve(checkpoint)
    return Path(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else None


@lru_cache
def fingerprint(checkpoint: str) -> str:
    """What identifies the weights in a score file: the bytes of a local folder, the name of a hub
    checkpoint."""
    path = folder(checkpoint)
    if path is None:
        return checkpoint
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def one_clear_line(checkpoint: str) -> Iterator[None]:
    """Turn the libraries' several ways of saying that weights are missing into one InputError.

    timm, open_clip and transformers raise OSError, RuntimeError, ValueError or huggingface_hub errors (an
    OSError) for weights that are neither cached nor reachable, and ImportError for a tokenizer whose backend
    is not installed.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, ImportError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"evaluator weights '{checkpoint}' cannot be loaded: fetch them once with network access (and "
            f"HF_HUB_OFFLINE unset) or name a local folder in the metric's yaml; the library says: {reason}"
        ) from error
