"""Write learned words for other programs.

Writes `<out>/<run>/<format>/<concept>.safetensors` (for diffusers one file per text encoder, and an adapter's) and a
text beside it, which shows the exact calls: everything in it but comments is Python that runs as it stands. What the
text takes from an embedding's header is checked, since the file may come from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import DIFFUSERS_LORA, adapter_files, adapter_of
from dti_repro.artifacts.files import atomic_write, read_yaml
from dti_repro.artifacts.run_dir import ConceptFolder, check_name, embedding_files, parse, read_header
from dti_repro.config import CONF
from dti_repro.errors import InputError
from dti_repro.launch.failures import choices

if TYPE_CHECKING:
    from torch import Tensor

USES = {
    "diffusers": "Write the word once: diffusers itself puts all of its vectors there.",
    "a1111": "A1111: copy {file} into its folder embeddings/ and write {name} in the prompt. The file's name is the "
    "trigger word; with the method behind it, it is no ordinary word.",
    "comfyui": "ComfyUI: copy {file} into its folder models/embeddings/ and write embedding:{name} in the prompt.",
}
POOLS = {"diffusers": "as_diffusers", "a1111": "eos", "comfyui": "eos"}
"""Where each program reads the pooled text vector of Stable Diffusion XL, as values of `backbone.pool`."""
PIPELINES = {1: "StableDiffusionPipeline", 2: "StableDiffusionXLPipeline"}
LOADED = ("dti_repro.backbones.stable_diffusion.", "dti_repro.backbones.sdxl.")
"""Backbones whose learned words other programs load."""
PLACEHOLDER = re.compile(r"<[\w.'-]+>")
WORDS = re.compile(r"[\w.' -]+")


def export(cfg: DictConfig) -> list[Path]:
    """Write the files of each concept of the run below `out`; returns them, texts included."""
    folders = parse(cfg.run)
    adapters = [adapter_of(folder.embedding) for folder in folders]
    for folder, adapter in zip(folders, adapters, strict=True):
        if adapter is not None and cfg.to != "diffusers":
            raise InputError(f"to={cfg.to} has no place for the adapter of {folder.path}: use to=diffusers")
    written = [_export(*pair, cfg.to, Path(cfg.out)) for pair in zip(folders, adapters, strict=True)]
    return [path for paths in written for path in paths]


def _export(folder: ConceptFolder, adapter: Path | None, target: str, root: Path) -> list[Path]:
    from dti_repro.artifacts.embedding import load_embedding, load_embeddings, write_tensors
    from dti_repro.artifacts.formats import as_files

    first = next(iter(embedding_files(folder.embedding).values()))
    stored = read_header(first)
    placeholder = _plain(load_embedding(first)[0], PLACEHOLDER, first, "key")
    for key in ("initializer", "method"):
        _plain(stored.get(key, "unknown"), WORDS, first, key)
    model = stored.get("base_model")
    model = model if model in choices("backbone") else "unknown"
    backbone = _trained_on(folder, model)
    _check_loaded(model, backbone)
    vectors = load_embeddings(folder.embedding)
    if len(vectors) not in PIPELINES:
        raise InputError(f"embedding {first} is for {len(vectors)} text encoders: diffusers has no pipeline for it")
    concept = check_name(folder.name, "concept")
    name = check_name(f"{concept}-{stored.get('method', 'word')}", "method") if target == "a1111" else concept
    out = root / _run_name(folder) / target
    trigger = {"diffusers": placeholder, "a1111": name, "comfyui": f"embedding:{name}"}[target]
    kept = {key: value for key, value in stored.items() if key not in ("format", "encoders")}
    header = {**kept, "base_model": model, "format": target, "trigger_word": trigger, "norms": _norms(vectors)}
    files = as_files(target, name, placeholder, vectors)
    for file, tensors in files.items():
        write_tensors(out / file, tensors, header)
    beside = _beside(name, adapter)
    for file, source in beside.items():
        with atomic_write(out / file) as temporary:
            shutil.copyfile(source, temporary)
    notes = [USES[target].format(file=next(iter(files)), name=name), *_pool_note(backbone.get("pool"), target)]
    for note in notes:
        print(f"{concept}: {note}", file=sys.stderr)
    text = out / f"{name}.txt"
    with atomic_write(text) as temporary:
        temporary.write_text(_calls(files, name, placeholder, header, beside, notes), encoding="utf-8")
    return [*(out / file for file in (*files, *beside)), text]


def _plain(value: str, pattern: re.Pattern[str], file: Path, what: str) -> str:
    """The value, if it is of plain words. InputError that names the file and what the value is in it."""
    if not pattern.fullmatch(value):
        raise InputError(
            f"embedding {file}: its {what} {value[:40]!r} is no plain word, and is not written into a text that is run"
        )
    return value


def _run_name(folder: ConceptFolder) -> str:
    """<backbone>-<method>-<hash>-seed_<n>, of the folders that the concept's lies in."""
    above = [path.name for path in folder.path.resolve().parents][:4]
    return "-".join(name.replace("=", "_") for name in reversed(above) if name)


def _beside(name: str, adapter: Path | None) -> dict[str, Path]:
    """File name -> file of the adapter that it is a copy of: diffusers' own format where there is one, else peft's."""
    files = {file.name: file for file in adapter_files(adapter)} if adapter is not None else {}
    if DIFFUSERS_LORA in files:
        return {f"{name}.lora.safetensors": files[DIFFUSERS_LORA]}
    return {f"{name}.adapter/{file}": source for file, source in files.items()}


def _norms(vectors: Mapping[str, Tensor]) -> str:
    """`text_encoder 0.3912 0.4003 text_encoder_2 ...`, a number for each vector."""
    parts = [[encoder, *(f"{norm:.4f}" for norm in rows.norm(dim=-1).tolist())] for encoder, rows in vectors.items()]
    return " ".join(part for line in parts for part in line if part)


def _calls(
    files: Mapping[str, Mapping[str, Tensor]],
    name: str,
    placeholder: str,
    header: Mapping[str, str],
    beside: Mapping[str, Path],
    notes: list[str],
) -> str:
    model = header["base_model"]
    tensors = [(file, key) for file, keys in files.items() for key in keys]
    pipeline = PIPELINES[len(tensors)]
    lines = [
        f"# {placeholder}: {header.get('method', 'unknown')} on {model}, {header.get('initializer', '?')};"
        f" norms: {header['norms']}",
        *(f"# {note}" for note in notes),
        "# diffusers, run where the file lies:",
        f"from diffusers import {pipeline}",
        "from safetensors.torch import load_file",
        "",
        f"pipeline = {pipeline}.from_pretrained({_source(model)!r})",
    ]
    for i, (file, key) in enumerate(tensors):
        second = ", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2" if i else ""
        lines.append(f"pipeline.load_textual_inversion(load_file({file!r})[{key!r}], token={placeholder!r}{second})")
    if (lora := f"{name}.lora.safetensors") in beside:
        lines.append(f"pipeline.load_lora_weights('.', weight_name={lora!r})")
    elif beside:
        lines += ["from peft import PeftModel", "", f"PeftModel.from_pretrained(pipeline.unet, {f'{name}.adapter'!r})"]
    return "\n".join([*lines, f"prompt = {f'a {placeholder}'!r}"]) + "\n"


def _pool_note(pool: str | None, target: str) -> list[str]:
    """What to know where a program pools at another place than the training did."""
    if pool is None or pool == POOLS[target]:
        return []
    return [
        f"Learned with backbone.pool={pool}, and this program reads the pooled text vector as pool={POOLS[target]} "
        f"does: its pictures differ from ours. Train with backbone.pool={POOLS[target]} for it."
    ]


def _trained_on(folder: ConceptFolder, model: str) -> dict[str, Any]:
    """The backbone's settings in the run's config.yaml, above those that are packaged under this name."""
    own = read_yaml(folder.config).get("backbone") if folder.config.is_file() else None
    settings = dict(own) if isinstance(own, dict) else {}
    return {"_target_": _packaged(model).get("_target_", LOADED[0]), **settings}


def _check_loaded(model: str, backbone: Mapping[str, Any]) -> None:
    if not str(backbone["_target_"]).startswith(LOADED):
        raise InputError(
            f"no other program loads words learned on {model} (diffusers' pipeline for it has no loader, either): "
            "draw them with python -m dti_repro.generate"
        )


def _packaged(model: str) -> dict[str, Any]:
    """The packaged configuration of this name, empty if there is none."""
    yaml = CONF / "backbone" / f"{model}.yaml"
    return OmegaConf.to_container(OmegaConf.load(yaml)) if yaml.is_file() else {}


def _source(model: str) -> str:
    """Where the base model is to be had: its Hub id; never a path of this machine."""
    path = _packaged(model).get("path")
    return path if path and path != "???" else f"path/to/{model}"
