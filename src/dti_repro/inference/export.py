"""Write learned words for other programs.

Writes `<out>/<run>/<program>/<concept>.safetensors` (for diffusers one file for each text encoder, and an adapter's)
and a text that shows how to load them: all of it but comments is Python that runs as it stands. The embedding may come
from elsewhere: what stands in the code is checked, and its method and initializer stand in a comment only.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dti_repro.adapters.folder import DIFFUSERS_LORA, adapter_files, adapter_of
from dti_repro.artifacts.files import atomic_write, read_yaml, sha256, write_file
from dti_repro.artifacts.run_dir import ConceptFolder, check_name, embedding_files, finished_concepts
from dti_repro.backbones.checkpoint import PLACEHOLDER
from dti_repro.config import CONF
from dti_repro.errors import InputError, one_line

if TYPE_CHECKING:
    from torch import Tensor

MOVE = "move it, or give out=<another folder>"
NOTES = {
    "diffusers": "Write the word once: diffusers itself puts all of its vectors there.",
    "a1111": "A1111: copy {file} into its folder embeddings/ and write {name} in the prompt. The file's name is the "
    "trigger word; with the method in it, it is no ordinary word.",
    "comfyui": "ComfyUI: copy {file} into its folder models/embeddings/ and write embedding:{name} in the prompt.",
}
TRIGGERS = {"diffusers": "{placeholder}", "a1111": "{name}", "comfyui": "embedding:{name}"}
POOLS = {"diffusers": "as_diffusers", "a1111": "eos", "comfyui": "eos"}
"""Where each program reads the pooled text vector of Stable Diffusion XL, as values of `backbone.pool`."""
PIPELINES = {1: "StableDiffusionPipeline", 2: "StableDiffusionXLPipeline"}  # by number of text encoders
BACKBONES = ("dti_repro.backbones.stable_diffusion.", "dti_repro.backbones.sdxl.")
"""Backbones whose learned words other programs load."""


def export(cfg: DictConfig) -> list[Path]:
    """Write the files of each concept of the run below `out`; return them, texts included."""
    folders = finished_concepts(cfg.run)
    adapters = [adapter_of(folder.embedding) for folder in folders]
    for folder, adapter in zip(folders, adapters, strict=True):
        if adapter is not None and cfg.to != "diffusers":
            raise InputError(f"to={cfg.to} has no place for the adapter of {folder.path}: use to=diffusers")
    written = []
    for folder, adapter in zip(folders, adapters, strict=True):
        written += _export_concept(folder, adapter, cfg.to, Path(cfg.out))
    return written


def _export_concept(folder: ConceptFolder, adapter: Path | None, program: str, root: Path) -> list[Path]:
    from dti_repro.artifacts.embedding import load_embedding, load_embeddings, tensors_for, write_tensors

    first = next(iter(embedding_files(folder.embedding).values()))
    placeholder, _, stored = load_embedding(first)
    if not PLACEHOLDER.fullmatch(placeholder):
        raise InputError(
            f"embedding {first}: its key {placeholder[:40]!r} is no plain word, and is not written into a text that is "
            "run"
        )
    packaged = {path.stem: path for path in (CONF / "backbone").glob("*.yaml")}
    model = stored["base_model"] if stored.get("base_model") in packaged else "unknown"
    backbone = read_yaml(packaged[model]) if model in packaged else {}
    trained_with = folder.settings("backbone")
    if not str(trained_with.get("_target_", backbone.get("_target_", BACKBONES[0]))).startswith(BACKBONES):
        raise InputError(
            f"no other program loads words learned on {model} (diffusers' pipeline for it has no loader, either): "
            "draw them with python -m dti_repro.generate"
        )
    vectors = load_embeddings(folder.embedding)
    if len(vectors) not in PIPELINES:
        raise InputError(f"embedding {first} is for {len(vectors)} text encoders: diffusers has no pipeline for it")

    name = check_name(folder.name, "concept")
    if program == "a1111":
        name = check_name(f"{name}-{stored.get('method', 'word')}", "method")
    norms = []
    for encoder, rows in vectors.items():
        norms += [encoder, *(f"{norm:.4f}" for norm in rows.norm(dim=-1).tolist())]
    header = {key: value for key, value in stored.items() if key != "encoders"} | {
        "base_model": model,
        "format": program,
        "norms": " ".join(filter(None, norms)),
        "trigger_word": TRIGGERS[program].format(name=name, placeholder=placeholder),
    }
    files = tensors_for(program, name, placeholder, vectors)
    copies = _adapter_copies(name, adapter)
    notes = [NOTES[program].format(file=next(iter(files)), name=name)]
    pool, wanted = trained_with.get("pool"), POOLS[program]
    if pool in POOLS.values() and pool != wanted:  # any other value is not written into a text that is run
        notes.append(
            f"Learned with backbone.pool={pool}, and this program reads the pooled text vector as pool={wanted} does: "
            f"its images differ from ours. Train with backbone.pool={wanted} for it."
        )
    hub_id = backbone.get("path")  # of the packaged yaml: never a path of this machine
    source = f"path/to/{model}" if hub_id in (None, "???") else hub_id
    text = _python(source, [(file, key) for file in files for key in files[file]], placeholder, name, list(copies))
    about = one_line(f"{placeholder}: {header.get('method', 'unknown')} on {model}, {header.get('initializer', '?')}")
    comments = [f"{about}; norms: {header['norms']}", *notes, "diffusers, run in the folder of the file:"]

    run = "-".join(folder.path.resolve().parts[1:][-5:-1])  # <backbone>-<method>-<hash>-seed_<n>
    out = root / run / program
    for file, tensors in files.items():
        _check_free(out / file, tensors)
    for file, original in copies.items():
        if (out / file).is_file() and sha256(out / file) != sha256(original):
            raise InputError(f"{out / file} is another word's adapter: {MOVE}")
    for file, tensors in files.items():
        write_tensors(out / file, tensors, header)
    for file, original in copies.items():
        with atomic_write(out / file) as temporary:
            shutil.copyfile(original, temporary)
    write_file(out / f"{name}.txt", "".join(f"# {comment}\n" for comment in comments) + text)
    for note in notes:
        print(f"{folder.name}: {note}", file=sys.stderr)
    return [*(out / file for file in (*files, *copies)), out / f"{name}.txt"]


def _check_free(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError for a file of an earlier export that holds another word."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        before = load_file(file) if file.is_file() else tensors
    except SafetensorError:
        return
    if before.keys() != tensors.keys() or not all(before[key].equal(tensors[key]) for key in tensors):
        raise InputError(f"{file} holds another word of this name: {MOVE}")


def _adapter_copies(name: str, adapter: Path | None) -> dict[str, Path]:
    """Return new file -> file of the adapter: in diffusers' own format where there is one, else in peft's."""
    files = {file.name: file for file in adapter_files(adapter)} if adapter is not None else {}
    if DIFFUSERS_LORA in files:
        return {f"{name}.lora.safetensors": files[DIFFUSERS_LORA]}
    return {f"{name}.adapter/{file}": original for file, original in files.items()}


def _python(source: str, tensors: list[tuple[str, str]], placeholder: str, name: str, copies: list[str]) -> str:
    """Return the code that loads the word. tensors: (file, key) of each text encoder."""
    pipeline = PIPELINES[len(tensors)]
    lines = [
        f"from diffusers import {pipeline}",
        "from safetensors.torch import load_file",
        "",
        f"pipeline = {pipeline}.from_pretrained({source!r})",
    ]
    encoders = ("", ", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2")
    for (file, key), encoder in zip(tensors, encoders, strict=False):
        lines.append(f"pipeline.load_textual_inversion(load_file({file!r})[{key!r}], token={placeholder!r}{encoder})")
    if (lora := f"{name}.lora.safetensors") in copies:
        lines.append(f"pipeline.load_lora_weights('.', weight_name={lora!r})")
    elif copies:
        lines += ["from peft import PeftModel", "", f"PeftModel.from_pretrained(pipeline.unet, {f'{name}.adapter'!r})"]
    return "\n".join([*lines, f"prompt = {f'a {placeholder}'!r}"]) + "\n"
