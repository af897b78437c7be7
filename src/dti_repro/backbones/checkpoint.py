"""A checkpoint folder, looked at without loading a model: where it is, what it weighs, which words it
knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import read_json, read_yaml
from dti_repro.backbones.hub import cached, download, is_hub_id
from dti_repro.config import CONF
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PACKAGED = Path(__file__).parent.parent / "toybox" / "weights" / "pipeline"
PARTS = ("text_encoder", "tokenizer", "unet", "vae", "scheduler", "transformer", "text_encoder_2", "tokenizer_2")
"""That a model may have, in the order in which they are hashed."""
WEIGHTS = ("text_encoder", "text_encoder_2", "unet", "transformer", "vae")
WEIGHT_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""As transformers and diffusers call them; with `.index.json` behind, a list of several files."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONFIGURATIONS = CONF / "backbone"
TABLES = ("token_embedding.weight", "embed_tokens.weight", "shared.weight")
"""How the key of an embedding table ends, in CLIP, Gemma2 and T5."""
WHOLE = 64 << 20  # bytes up to which a file is hashed whole
CHUNK = 1 << 20
CHUNKS = 32


def locate(path: str | None, revision: str = "main") -> Path:
    """The checkpoint's folder, of a folder or an id on the Hugging Face Hub; None is the packaged toybox.
    InputError if it is not there whole."""
    if path is not None and is_hub_id(path):
        folder = find(path, revision) or download(path, revision)
    else:
        folder = Path(path) if path is not None else PACKAGED
    if not (folder / "model_index.json").is_file():
        raise InputError(f"backbone.path {folder} is no checkpoint in diffusers' format (it has no model_index.json)")
    require(folder, parts(folder))
    return folder


def find(path: str | None, revision: str = "main") -> Path | None:
    """Return the checkpoint's folder as `locate`, without a download: None for an id on the Hub that is not here
    whole."""
    if path is None or not is_hub_id(path):
        return locate(path)
    folder = cached(path, revision)
    return folder if folder is not None and _is_whole(folder) else None


def require(folder: Path, wanted: Sequence[str]) -> None:
    """InputError if one of these parts is not there, is not named by model_index.json (whose parts are hashed), or has
    no weights in safetensors."""
    named = parts(folder)
    for part in wanted:
        if not (folder / part).is_dir():
            raise InputError(f"backbone.path {folder} has no folder {part}")
        if part not in named:
            raise InputError(f"backbone.path {folder}: its model_index.json does not name {part}")
        if part in WEIGHTS and not _has_weights(folder / part):
            pickles = sorted(file.name for pattern in PICKLES for file in (folder / part).glob(pattern))
            found = f"; {part}/{pickles[0]} is a pickle, which is never loaded" if pickles else ""
            raise InputError(
                f"backbone.path {folder} has no weights in {part}: {' or '.join(WEIGHT_FILES)} needed, not fp16{found}"
            )


def _has_weights(part: Path) -> bool:
    """Whether there is a file that the libraries read, or a list of such files that are all there and are hashed."""
    for file in (part / name for name in WEIGHT_FILES):
        index = file.with_name(f"{file.name}.index.json")
        if file.is_file():
            return True
        if index.is_file():
            listed = read_json(index, "copy the checkpoint again").get("weight_map")
            names = set(map(str, listed.values())) if isinstance(listed, dict) else set()
            return bool(names) and names <= {path.name for path in part.glob("*.safetensors") if _is_used(path)}
    return False


def check_kind(folder: Path, *classes: str) -> None:
    """InputError if another backbone is for this checkpoint. classes: the backbone's class and its bases; a class is
    named as the pipeline of diffusers whose checkpoints it reads."""
    kind = str(model_index(folder).get("_class_name"))
    if kind in [f"{name}Pipeline" for name in classes]:
        return
    found = {file.stem: read_yaml(file)["_target_"] for file in sorted(CONFIGURATIONS.glob("*.yaml"))}
    others = [name for name, target in found.items() if f"{target.rpartition('.')[2]}Pipeline" == kind]
    if others:
        raise InputError(f"backbone.path {folder} is a {kind}: choose backbone={' or '.join(others)}")


@contextmanager
def loading(folder: Path, part: str) -> Iterator[None]:
    """Turn whatever a library says about files that it cannot load into one line that names the part."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ...
        said = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise InputError(
            f"backbone.path {folder}: {part} cannot be loaded ({said[:200]}): copy it again, or choose the backbone "
            "that it is for"
        ) from error


def load_weights(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    """Return the part as a model of this class of transformers or diffusers. InputError if a weight is missing, which
    the libraries would fill with random numbers, or has another shape. Pickles are never read. Within
    `torch.device("meta")` the model is made of its config and reads no weights."""
    import torch
    from transformers import PreTrainedModel

    with loading(folder, part):
        if torch.get_default_device().type == "meta":
            if issubclass(kind, PreTrainedModel):
                model = kind(kind.config_class.from_pretrained(folder / part, local_files_only=True))
            else:
                model = kind.from_config(kind.load_config(folder / part, local_files_only=True))
            return model.to(next(iter(options.values())))
        model, report = kind.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
        if missing := sorted(report["missing_keys"]):
            raise InputError(
                f"backbone.path {folder}: {part} lacks {len(missing)} weights of a {kind.__name__}, such as "
                f"{missing[0]}: copy it again, or choose the backbone that it is for"
            )
    return model


def _is_whole(folder: Path) -> bool:
    try:
        require(folder, parts(folder))
    except (InputError, OSError):
        return False
    return True


def parts(folder: Path) -> list[str]:
    """Those that its model_index.json names. InputError for one that is no checkpoint's."""
    index = model_index(folder)
    return [part for part in PARTS if isinstance(index.get(part), list) and any(index[part])]


def model_index(folder: Path) -> dict[str, Any]:
    """What model_index.json says. InputError that names it."""
    return read_json(folder / "model_index.json", "copy the checkpoint again")


def commit(folder: Path) -> str | None:
    """The commit of a snapshot from the Hub; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def fingerprint(folder: Path) -> str:
    """Hex digest of the files that decide what is learned, wherever they lie.

    Files above 64 MiB are hashed by their length and 32 evenly spaced chunks of 1 MiB (their header among
    them): any training changes all of a model's weights, and hashing gigabytes would cost more than a run's
    start may.
    """
    digest = hashlib.sha256()
    for part in parts(folder):
        for file in sorted((folder / part).iterdir()):
            if file.suffix in (".safetensors", ".json", ".txt", ".model") and _is_used(file):
                digest.update(f"{part}/{file.name}\0{file.stat().st_size}\0".encode())
                _update(digest, file)
    return digest.hexdigest()


def _is_used(file: Path) -> bool:
    """Not a variant of the weights that is never read."""
    return ".fp16" not in file.name and "non_ema" not in file.name


def _update(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            if size <= WHOLE:
                digest.update(content.read())
                return
            for k in range(CHUNKS):
                content.seek(k * (size - CHUNK) // (CHUNKS - 1))
                digest.update(content.read(CHUNK))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): see to its rights, or copy it again") from error


def check_words(folder: Path, initializer: str, placeholder: str) -> None:
    """InputError if the tokenizer does not know the initializer, or knows the placeholder as a word already.

    Unknown is what becomes the unknown token or a token whose vocabulary row is all zero: the toybox's
    tokenizer spells unknown words in letters that nothing was ever learned of.
    """
    from transformers import AutoTokenizer

    with loading(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    ids = initializer_ids(tokenizer, initializer)
    if not ids or _has_zero_row(folder, ids):
        raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {folder}: use words it knows")
    vocabulary = tokenizer.get_vocab()
    word = placeholder.lower()
    if any(form in vocabulary for form in (placeholder, word, f"{word}</w>")):
        raise InputError(f"placeholder '{placeholder}' is already a word of the tokenizer of {folder}: choose another")
    if not (placeholder.startswith("<") and placeholder.endswith(">") and len(placeholder) > 2):
        raise InputError(f"placeholder '{placeholder}' has no angle brackets: write it as <name>")


def initializer_ids(tokenizer: PreTrainedTokenizerBase, initializer: str) -> list[int]:
    """Token ids of the class word as it stands within a sentence, where SentencePiece makes the space before a word
    a part of it; none if one of them is the unknown token standing for something else."""
    ids = tokenizer(f" {initializer}", add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return [] if unknown is not None and unknown in ids else ids


def _has_zero_row(folder: Path, ids: list[int]) -> bool:
    with _table(folder, "text_encoder") as table:
        return table is not None and any(not bool(table[i].float().any()) for i in ids)


def vocabulary(folder: Path, encoder: str) -> Tensor:
    """The embedding table (words, dim) of a text encoder, as stored. InputError if its weights have none."""
    with _table(folder, encoder) as table:
        if table is None:
            raise InputError(f"backbone.path {folder} has no embedding table in {encoder} ({', '.join(TABLES)})")
        return table[:]


def encoder_dims(folder: Path) -> dict[str, int]:
    """Text encoder -> its width."""
    encoders = sorted(part for part in parts(folder) if part.startswith("text_encoder"))
    if not encoders:
        raise InputError(
            f"backbone.path {folder}: its model_index.json names no text encoder: copy the checkpoint again"
        )
    dims = {}
    for part in encoders:
        config = read_json(path := folder / part / "config.json", "copy the checkpoint again")
        dims[part] = config.get("hidden_size", config.get("d_model"))
        if type(dims[part]) is not int:
            raise InputError(f"{path} has no whole number as hidden_size or d_model: copy the checkpoint again")
    return dims


@contextmanager
def _table(folder: Path, encoder: str) -> Iterator[Any]:
    """The embedding table, of which rows are read as they are asked for; None if there is none."""
    from safetensors import safe_open

    files = sorted(filter(_is_used, (folder / encoder).glob("*.safetensors")))
    for path in files:
        with loading(folder, encoder), safe_open(path, framework="pt") as file:
            key = next((key for key in file.keys() if key.endswith(TABLES)), None)  # noqa: SIM118
            if key is not None:
                yield file.get_slice(key)
                return
    yield None
