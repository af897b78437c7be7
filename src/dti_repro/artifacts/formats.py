"""Embeddings as other programs keep them: safetensors in the layouts of diffusers, A1111 and ComfyUI.

diffusers loads one key a file and text encoder (its load_textual_inversion). A1111 and ComfyUI load one file: the
only key of Stable Diffusion 1.x and 2.x, by custom `emb_params`, and `clip_l` and `clip_g` of XL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dti_repro.artifacts.embedding import check_file, check_vectors, read_tensors
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
FIRST, SECOND = "text_encoder", "text_encoder_2"
KEYS = {FIRST: "clip_l", SECOND: "clip_g"}
ONLY_KEY = "emb_params"


def as_files(target: str, name: str, placeholder: str, vectors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """File name -> key -> (vectors, dim). vectors as `load_embeddings` gives them. InputError for an encoder that
    the format has no key for."""
    if target == "diffusers":
        return {
            f"{name}.{encoder}.safetensors" if encoder else f"{name}.safetensors": {placeholder: rows}
            for encoder, rows in vectors.items()
        }
    if "" in vectors:
        return {f"{name}.safetensors": {ONLY_KEY: vectors[""]}}
    if unknown := [encoder for encoder in vectors if encoder not in KEYS]:
        raise InputError(f"to={target} has no key for the text encoder '{unknown[0]}': use to=diffusers")
    return {f"{name}.safetensors": {KEYS[encoder]: rows for encoder, rows in vectors.items()}}


def read_foreign(paths: Sequence[Path], dims: Mapping[str, int]) -> dict[str, Tensor]:
    """Text encoder -> (vectors, dim) float32 of a model whose encoders have these widths, from one file of any of
    the layouts, or diffusers' one file per encoder in any order. InputError that names the file."""
    found: dict[str, Tensor] = {}
    for path in paths:
        for key, rows in _read(path).items():
            encoder = next((name for name, own in KEYS.items() if own == key), None) if len(dims) > 1 else None
            fits = [name for name, dim in dims.items() if dim == rows.shape[1] and name not in found]
            if not fits or (encoder and encoder not in fits):
                widths = " and ".join(map(str, dims.values()))
                raise InputError(f"embedding {path}: '{key}' is {rows.shape[1]} wide, this backbone takes {widths}")
            found[encoder or fits[0]] = rows
    if missing := [name for name in dims if name not in found]:
        raise InputError(f"embedding {paths[0]} has nothing for {missing[0]}: this backbone has {len(dims)} encoders")
    if len({len(rows) for rows in found.values()}) > 1:
        raise InputError(f"embedding {paths[0]} has another number of vectors for each text encoder")
    return {name: found[name] for name in dims}


def check_readable(path: Path) -> None:
    """InputError for what is never read, before anything heavy is imported."""
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which may run code when it is loaded, and is refused. To convert it: "
            "d = torch.load(file, weights_only=True); t = d['string_to_param']['*'] if 'string_to_param' in d else "
            "next(iter(d.values())); safetensors.torch.save_file({'emb_params': t.detach().contiguous()}, new_file)"
        )
    check_file(path)


def _read(path: Path) -> dict[str, Tensor]:
    check_readable(path)
    tensors, _ = read_tensors(path)
    keys = sorted(tensors)
    if len(keys) != 1 and keys != sorted(KEYS.values()):
        raise InputError(
            f"embedding {path} has the keys {', '.join(keys[:4]) or 'none'}: one, or clip_g and clip_l, wanted"
        )
    return {key: check_vectors(path, rows) for key, rows in tensors.items()}
