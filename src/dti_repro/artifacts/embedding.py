"""Learned vectors as files: safetensors in our own layout, and in those of diffusers, A1111 and ComfyUI.

Ours is that of diffusers' load_textual_inversion: one file for each text encoder with one key, the placeholder with its
brackets, and (vectors, dim) float32; the header says where the vectors come from. A1111 and ComfyUI load one file: with
the key `emb_params` for Stable Diffusion 1.x and 2.x (by custom), `clip_l` and `clip_g` for XL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import write_file
from dti_repro.artifacts.run_dir import embedding_files, encoder_file
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dti_repro.backbones.base import BackboneSpec

FORMAT = "dti-repro-1"
METHOD = "method_config"
"""The key of the header of a method's state: the configuration, as JSON, of the method that makes vectors of it."""
MAX_VECTORS = 1000
MAX_BYTES = 16 << 20  # 1,000 vectors of 4,096 numbers: anything larger is not an embedding
MAX_STATE_BYTES = 256 << 20  # a small network that makes the vectors, such as NeTI's, grows with their number
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SDXL_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
SD_KEY = "emb_params"


def save_embeddings(path: Path, placeholder: str, vectors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write text encoder -> (vectors, dim): one file for each encoder; if there are several, each names all. `header`
    takes method, config_hash, base_model, concept, initializer and, for a snapshot, step."""
    encoders = {"encoders": " ".join(vectors)} if len(vectors) > 1 else {}
    for encoder, rows in vectors.items():
        file = encoder_file(path, encoder, len(vectors))
        save_state(file, placeholder, {placeholder: rows}, {**header, **encoders})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write float32 safetensors. Equal content is equal bytes."""
    import torch
    from safetensors.torch import save

    content = {key: rows.detach().to("cpu", torch.float32).contiguous() for key, rows in tensors.items()}
    write_file(path, _sort_header(save(content, metadata=dict(header))))


def _sort_header(data: bytes) -> bytes:
    """Sort the metadata, which the library writes in the arbitrary order of a hash map."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of eight
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def save_state(path: Path, placeholder: str, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write the state of a method whose vectors depend on more than the concept. `header` takes the same as
    save_embeddings, and `METHOD` and `vectors`, their number."""
    write_tensors(path, state, {"format": FORMAT, "placeholder": placeholder, **header})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Return what save_state wrote: the tensors (float32, finite), the method's configuration, the number of vectors.
    InputError that names the file."""
    tensors, header = _read_tensors(path, is_state=True)
    try:
        config, vectors = json.loads(header[METHOD]), int(header["vectors"])
        if not isinstance(config, dict) or not 0 < vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} vectors")
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"embedding {path} has a damaged header: {error}") from error
    return tensors, config, vectors


def load_embeddings(path: Path) -> dict[str, Tensor]:
    """Return text encoder -> (vectors, dim) float32; {"": vectors} where there is one encoder. InputError as
    load_embedding."""
    files = embedding_files(path)
    if not files:
        raise InputError(f"embedding {path} does not exist, or not for all of its text encoders")
    return _of_equal_counts(path, {encoder: load_embedding(file)[1] for encoder, file in files.items()})


def load_embedding(path: Path) -> tuple[str, Tensor, dict[str, str]]:
    """Return (placeholder, vectors (V, dim) float32 on the CPU, header).

    InputError that names the file for anything else: a pickle, several keys, a wrong shape or width, numbers that are
    not finite.
    """
    tensors, header = _read_tensors(path)
    if METHOD in header:
        method = header.get("method", "its method")
        raise InputError(
            f"embedding {path}: {method} learns other vectors for each layer or timestep, and this command needs one "
            "list of vectors: draw this word with python -m dti_repro.generate, or learn it with ti, dti or crossinit"
        )
    if len(tensors) != 1:
        raise InputError(f"embedding {path} has {len(tensors)} keys ({', '.join(sorted(tensors)[:4])}), one expected")
    ((placeholder, vectors),) = tensors.items()
    return placeholder, _as_vectors(path, vectors), header


def for_encoders(vectors: Mapping[str, Tensor], spec: BackboneSpec, path: Path) -> dict[str, Tensor]:
    """Return what `load_embeddings` gave for `path` by the backbone's names of its text encoders. InputError that names
    the file if the two do not fit."""
    if "" in vectors and len(spec.encoders) == 1:
        vectors = {next(iter(spec.encoders)): vectors[""]}
    advice = "choose the backbone it was learned on"
    if vectors.keys() != spec.encoders.keys():
        encoders = f"{len(vectors)} text encoder(s), {spec.name} has {len(spec.encoders)}"
        raise InputError(f"embedding {path} is for {encoders}: {advice}")
    for name, rows in vectors.items():
        if rows.shape[1] != spec.encoders[name].dim:
            widths = f"{rows.shape[1]} wide, {spec.name} takes {spec.encoders[name].dim}"
            raise InputError(f"embedding {path} is {widths}: {advice}")
    return dict(vectors)


def tensors_for(
    program: str, name: str, placeholder: str, vectors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return file name -> key -> (vectors, dim), in the layout of diffusers, a1111 or comfyui.

    vectors: as `load_embeddings` gives them. InputError for a text encoder that the layout has no key for.
    """
    if program == "diffusers":
        return {
            f"{name}.{encoder}.safetensors" if encoder else f"{name}.safetensors": {placeholder: rows}
            for encoder, rows in vectors.items()
        }
    if "" in vectors:
        return {f"{name}.safetensors": {SD_KEY: vectors[""]}}
    if unknown := [encoder for encoder in vectors if encoder not in SDXL_KEYS]:
        raise InputError(f"to={program} has no key for the text encoder '{unknown[0]}': use to=diffusers")
    return {f"{name}.safetensors": {SDXL_KEYS[encoder]: rows for encoder, rows in vectors.items()}}


def load_any_layout(paths: Sequence[Path], dims: Mapping[str, int]) -> dict[str, Tensor]:
    """Return text encoder -> (vectors, dim) float32 from one file in any of the layouts, or from diffusers' files in
    any order. dims: text encoder -> width. InputError that names the file."""
    found: dict[str, Tensor] = {}
    for path in paths:
        tensors = {key: _as_vectors(path, tensor) for key, tensor in _read_tensors(path)[0].items()}
        if len(tensors) != 1 and tensors.keys() != set(SDXL_KEYS.values()):
            keys = ", ".join(sorted(tensors)[:4]) or "none"
            raise InputError(f"embedding {path} has the keys {keys}: one, or clip_g and clip_l, wanted")
        for key, rows in tensors.items():
            free = [name for name, dim in dims.items() if dim == rows.shape[1] and name not in found]
            if key in SDXL_KEYS.values() and len(dims) > 1:
                free = [name for name in free if SDXL_KEYS.get(name) == key]
            if not free:
                widths = " and ".join(map(str, dims.values()))
                raise InputError(f"embedding {path}: '{key}' is {rows.shape[1]} wide, this backbone takes {widths}")
            found[free[0]] = rows
    if missing := [name for name in dims if name not in found]:
        raise InputError(f"embedding {paths[0]} has nothing for {missing[0]}: this backbone has {len(dims)} encoders")
    return _of_equal_counts(paths[0], {name: found[name] for name in dims})


def check_file(path: Path, is_state: bool = False) -> None:
    """Raise InputError for a pickle, and for a file that is missing, empty or too large. is_state: it may hold the
    state of a method. Imports nothing heavy."""
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which may run code when it is loaded, and is refused. To convert it: "
            "d = torch.load(file, weights_only=True); t = d['string_to_param']['*'] if 'string_to_param' in d else "
            "next(iter(d.values())); safetensors.torch.save_file({'emb_params': t.detach().contiguous()}, new_file)"
        )
    if not path.is_file():
        raise InputError(f"embedding {path} does not exist")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"embedding {path} is empty (0 bytes): copy it again, or remove it and train again")
    most = MAX_STATE_BYTES if is_state else MAX_BYTES
    if size > most:
        raise InputError(f"embedding {path} is larger than {most >> 20} MiB: it is not an embedding")


def _of_equal_counts(path: Path, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    if len({len(rows) for rows in vectors.values()}) > 1:
        raise InputError(f"embedding {path} has another number of vectors for each text encoder")
    return vectors


def _read_tensors(path: Path, is_state: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return key -> tensor in float32, and the header. InputError for what is no safetensors file of finite numbers."""
    from safetensors import SafetensorError, safe_open

    check_file(path, is_state)
    try:
        with safe_open(path, framework="pt") as file:
            tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"embedding {path} is not a safetensors file (pickles are never loaded): {error}") from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            raise InputError(f"embedding {path} is {tensor.dtype}: float32, float16 or bfloat16 is needed")
        tensors[key] = tensor.float()
        if not tensors[key].isfinite().all():
            raise InputError(f"embedding {path} holds numbers that are not finite in float32")
    return tensors, header


def _as_vectors(path: Path, tensor: Tensor) -> Tensor:
    """Return (vectors, dim); a single vector may come without the first dimension. InputError that names the file for
    another shape."""
    vectors = tensor[None] if tensor.ndim == 1 else tensor
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(f"embedding {path} has shape {tuple(vectors.shape)}, (vectors, dim) expected")
    if len(vectors) > MAX_VECTORS:
        raise InputError(f"embedding {path} has {len(vectors)} vectors: at most {MAX_VECTORS} are taken")
    return vectors
