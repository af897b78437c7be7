"""A checkpoint's folder in diffusers' format: whether it is whole, its fingerprint, its weights, its vocabulary."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import read_json, read_yaml
from dti_repro.backbones.local_cache import cache_folder
from dti_repro.config import CONF
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PACKAGED = Path(__file__).parent.parent / "toybox" / "weights" / "pipeline"
PARTS = ("text_encoder", "tokenizer", "unet", "vae", "scheduler", "transformer", "text_encoder_2", "tokenizer_2")
"""The folders that a checkpoint may have, in the order in which they are hashed."""
WEIGHTS = ("text_encoder", "text_encoder_2", "unet", "transformer", "vae")
WEIGHT_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""The names that transformers and diffusers give; with `.index.json` at the end, a list of several files."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TABLES = ("token_embedding.weight", "embed_tokens.weight", "shared.weight")
"""The end of the embedding table's key in CLIP, Gemma2 and T5."""
PLACEHOLDER = re.compile(r"<[\w.'-]+>")
"""Words that the tokenizers keep whole, and that can be written into code that is run."""
CONFIGS = (".json", ".txt", ".model")
HASHED = (*CONFIGS, ".safetensors")
CONVERTED = "single_files"
"""The kind of kept folders that were single files."""
COPY_AGAIN = "copy the checkpoint again"
WHOLE = 64 << 20  # bytes up to which a file is hashed as a whole
CHUNK = 1 << 20
CHUNKS = 32


def model_index(folder: Path) -> dict[str, Any]:
    """Return the content of model_index.json. InputError that names it."""
    return read_json(folder / "model_index.json", COPY_AGAIN)


def parts(folder: Path) -> list[str]:
    """Return the folders that model_index.json names. InputError that names the file."""
    index = model_index(folder)
    return [part for part in PARTS if isinstance(index.get(part), list) and any(index[part])]


def require(folder: Path, wanted: Sequence[str]) -> None:
    """Raise InputError for a part that is missing, that model_index.json does not name (only named parts are hashed),
    or that has no weights in safetensors."""
    named = parts(folder)
    for part in wanted:
        if not (folder / part).is_dir():
            raise InputError(f"backbone.path {folder} has no folder {part}")
        if part not in named:
            raise InputError(f"backbone.path {folder}: its model_index.json does not name {part}")
        if part in WEIGHTS and not _has_weights(folder / part):
            pickles = sorted(file.name for pattern in PICKLES for file in (folder / part).glob(pattern))
            found = f"; {part}/{pickles[0]} is a pickle, which is never loaded" if pickles else ""
            if any(_is_variant(file) for file in (folder / part).glob("*.fp16*.safetensors")):
                found = "; the folder has others, which backbone.variant=fp16 reads"
            raise InputError(
                f"backbone.path {folder} has no weights in {part}: {' or '.join(WEIGHT_FILES)} needed{found}"
            )


def check_whole(folder: Path) -> None:
    """Raise InputError unless the folder is a checkpoint in diffusers' format with all parts that it names."""
    if not (folder / "model_index.json").is_file():
        raise InputError(f"backbone.path {folder} is no checkpoint in diffusers' format (it has no model_index.json)")
    require(folder, parts(folder))


def _has_weights(part: Path) -> bool:
    """Return whether there is a file that the libraries read, or a list of files that are all there and are hashed."""
    for file in (part / name for name in WEIGHT_FILES):
        index = file.with_name(f"{file.name}.index.json")
        if file.is_file():
            return True
        if index.is_file():
            listed = read_json(index, COPY_AGAIN).get("weight_map")
            names = set(map(str, listed.values())) if isinstance(listed, dict) else set()
            return bool(names) and names <= {path.name for path in _weights(part)}
    return False


def _is_variant(file: Path) -> bool:
    """Return whether this is a variant of the weights, which is read through links of plain names only."""
    return ".fp16" in file.name or "non_ema" in file.name


def _weights(part: Path) -> list[Path]:
    return sorted(file for file in part.glob("*.safetensors") if not _is_variant(file))


def check_kind(checkpoint: Path, *classes: str, kind: str | None = None) -> None:
    """Raise InputError if another backbone is for this checkpoint. classes: the backbone's class and its bases; a class
    has the name of diffusers' pipeline without `Pipeline`. kind: the pipeline's class, None for that of a folder."""
    kind = kind or str(model_index(checkpoint).get("_class_name"))
    if kind in [f"{name}Pipeline" for name in classes]:
        return
    targets = {file.stem: read_yaml(file)["_target_"] for file in sorted((CONF / "backbone").glob("*.yaml"))}
    others = [name for name, target in targets.items() if f"{target.rpartition('.')[2]}Pipeline" == kind]
    if others:
        raise InputError(f"backbone.path {checkpoint} is a {kind}: choose backbone={' or '.join(others)}")


@contextmanager
def loading(folder: Path, part: str) -> Iterator[None]:
    """Turn a library's error about files that it cannot load into one line that names the part."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ...
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise InputError(
            f"backbone.path {folder}: {part} cannot be loaded ({reason[:200]}): copy it again, or choose the backbone "
            "that it is for"
        ) from error


def load_weights(kind: Any, folder: Path, part: str, dtype: Any) -> Any:
    """Return the part as a model of this class of transformers or diffusers. InputError if a weight has another shape,
    or is missing (the libraries would fill it with random numbers). Pickles are never read. Within
    `torch.device("meta")` the model is made of its config and reads no weights."""
    import torch
    from transformers import PreTrainedModel

    is_transformers = issubclass(kind, PreTrainedModel)
    if (folder / part / "adapter_config.json").exists():  # transformers would add it, whatever its kind
        raise InputError(f"backbone.path {folder}: {part} has an adapter, which is not loaded: remove its files")
    with loading(folder, part):
        if torch.get_default_device().type == "meta":
            if is_transformers:
                return kind(kind.config_class.from_pretrained(folder / part, local_files_only=True)).to(dtype)
            return kind.from_config(kind.load_config(folder / part, local_files_only=True)).to(dtype)
        options = {"dtype" if is_transformers else "torch_dtype": dtype, "output_loading_info": True}
        model, report = kind.from_pretrained(folder / part, local_files_only=True, use_safetensors=True, **options)
        if missing := sorted(report["missing_keys"]):
            raise InputError(
                f"backbone.path {folder}: {part} lacks {len(missing)} weights of a {kind.__name__}, such as "
                f"{missing[0]}: copy it again, or choose the backbone that it is for"
            )
    return model


def load_tokenizer(folder: Path, part: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of the checkpoint, of which no code is run."""
    from transformers import AutoTokenizer

    with loading(folder, part):
        return AutoTokenizer.from_pretrained(folder / part, local_files_only=True, trust_remote_code=False)


def fingerprint(folder: Path) -> str:
    """Return a hex digest of the files that decide what is learned, independent of their folder.

    Of a file above 64 MiB only the length and 32 evenly spaced chunks of 1 MiB are hashed: any training changes all
    weights of a model, and to hash gigabytes would take longer than the start of a run may. A folder that was made
    from a single file has the digest of that file as its name: what libraries write changes with their versions.
    """
    if folder.parent.name == CONVERTED and folder == cache_folder(CONVERTED, folder.name):
        return folder.name
    stats = [(file, file.stat()) for _, file in _files(folder, HASHED)]
    return _fingerprint(folder, tuple((file, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file, s in stats))


@lru_cache(maxsize=8)
def _fingerprint(folder: Path, state: tuple[tuple[Path, int, int, int, int], ...]) -> str:
    """Hash the files once in a process while their state is the same: a table asks for each concept of each row."""
    digest = hashlib.sha256()
    update_with_folder(digest, folder, HASHED)
    return digest.hexdigest()


def update_with_folder(digest: hashlib._Hash, folder: Path, suffixes: Sequence[str]) -> None:
    """Add the named parts' files with these suffixes, but for variants, to a digest."""
    for part, file in _files(folder, suffixes):
        digest.update(f"{part}/{file.name}\0{file.stat().st_size}\0".encode())
        update_with_file(digest, file)


def _files(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the named parts' files with these suffixes, but for variants, each with its part."""
    for part in parts(folder):
        for file in sorted((folder / part).iterdir()):
            if file.suffix in suffixes and not _is_variant(file):
                yield part, file


def update_with_file(digest: hashlib._Hash, file: Path) -> None:
    """Add a file, or 32 parts of a large one, to a digest. InputError if it cannot be read."""
    size = file.stat().st_size
    starts = [0] if size <= WHOLE else [k * (size - CHUNK) // (CHUNKS - 1) for k in range(CHUNKS)]
    try:
        with file.open("rb") as content:
            for start in starts:
                content.seek(start)
                digest.update(content.read(WHOLE if size <= WHOLE else CHUNK))
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}): correct its permissions, or copy it again"
        ) from error


def check_words(folder: Path, words: Sequence[tuple[str, str]]) -> None:
    """Raise InputError if the tokenizer does not know an initializer, or has a placeholder as a word. words: of each
    concept, (initializer, placeholder).

    A word is unknown if it becomes the unknown token or a token with an all-zero row: the toybox's tokenizer spells
    unknown words in letters, whose rows are zero.
    """
    tokenizer = load_tokenizer(folder, "tokenizer")
    vocabulary = tokenizer.get_vocab()
    with _table(folder, "text_encoder") as table:
        for initializer, placeholder in words:
            ids, word = initializer_ids(tokenizer, initializer), placeholder.lower()
            if not ids or (table is not None and not all(bool(table[i].float().any()) for i in ids)):
                unknown = f"initializer '{initializer}' is unknown to the tokenizer of {folder}"
                raise InputError(f"{unknown}: use words it knows")
            if any(form in vocabulary for form in (placeholder, word, f"{word}</w>")):
                taken = f"placeholder '{placeholder}' is already a word of the tokenizer of {folder}"
                raise InputError(f"{taken}: choose another")
            if not PLACEHOLDER.fullmatch(placeholder):
                raise InputError(f"placeholder '{placeholder}': write it as <name>, of letters, digits and . ' _ -")


def initializer_ids(tokenizer: PreTrainedTokenizerBase, initializer: str) -> list[int]:
    """Return the ids of the words as they are within a sentence, where SentencePiece makes the space before a word a
    part of it; no ids if one of them is the unknown token."""
    ids = tokenizer(f" {initializer}", add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return [] if unknown is not None and unknown in ids else ids


def vocabulary(folder: Path, encoder: str) -> Tensor:
    """Return the embedding table (words, dim) of a text encoder, as stored. InputError if its weights have none."""
    with _table(folder, encoder) as table:
        if table is None:
            raise InputError(f"backbone.path {folder} has no embedding table in {encoder} ({', '.join(TABLES)})")
        return table[:]


def encoder_dims(folder: Path) -> dict[str, int]:
    """Return text encoder -> its width. InputError that names the file."""
    dims = {}
    for part in sorted(part for part in parts(folder) if part.startswith("text_encoder")):
        file = folder / part / "config.json"
        config = read_json(file, COPY_AGAIN)
        dims[part] = config.get("hidden_size", config.get("d_model"))
        if type(dims[part]) is not int:
            raise InputError(f"{file} has no whole number as hidden_size or d_model: {COPY_AGAIN}")
    if not dims:
        raise InputError(f"backbone.path {folder}: its model_index.json names no text encoder: {COPY_AGAIN}")
    return dims


@contextmanager
def _table(folder: Path, encoder: str) -> Iterator[Any]:
    """Yield the embedding table, whose rows are read when they are used; None if there is none."""
    from safetensors import safe_open

    for file in _weights(folder / encoder):
        with loading(folder, encoder), safe_open(file, framework="pt") as content:
            key = next((key for key in content.keys() if key.endswith(TABLES)), None)  # noqa: SIM118
            if key is not None:
                yield content.get_slice(key)
                return
    yield None
