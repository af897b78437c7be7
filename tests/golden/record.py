"""Record what a fixed set of short commands computes: learned vectors, pictures, scores, a table.

A change that should only move or rename code is checked with two records of the same machine:

    python -m tests.golden.record before.json      # in the checkout before the change
    python -m tests.golden.record after.json       # after it
    diff before.json after.json                    # equal bytes: nothing changed

Each entry has a hash, which is exact and holds for one kind of processor, and a few numbers, which hold everywhere.
Only commands and file contents are used here, no function of the package: the record survives any new layout.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import load_file

from tests.tiny import build_tiny_sd, build_tiny_sdxl
from tests.tiny_flow import SIDE, build_tiny_sana

Entry = dict[str, Any]
MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "toybox": (build_tiny_sd, 16),
    "sdxl": (build_tiny_sdxl, 16),
    "sana_1600m": (build_tiny_sana, SIDE),
}
METHODS = {
    "ti": ["method=ti"],
    "dti": ["method=dti"],
    "crossinit": ["method=crossinit"],
    "ti_rescaled": ["method=ti_rescaled"],
    "lora": ["method=dti", "adapter=lora", "trainer.pack=1"],
    "oft": ["method=dti", "adapter=oft", "trainer.pack=1"],
}
SHORT = ["trainer.steps=3", "trainer.batch=2", "trainer.threads=1", "trainer.progress=false", "trainer.accelerator=cpu"]
DRAW = ["seeds=[0,1]", "sampler=default", "threads=1", "progress=false", "accelerator=cpu"]
METRICS = "[toybox_image,toybox_clip_t]"


def record(root: Path, models: Sequence[str] = tuple(MODELS)) -> dict[str, Entry]:
    """Run the commands below `root` with some of MODELS and return name -> {sha256, numbers}."""
    subjects = _subjects(root / "subjects")
    found: dict[str, Entry] = {}
    for name in models:
        build, side = MODELS[name]
        checkpoint = build(root / name)
        model = [f"backbone={name}", f"backbone.path={checkpoint}", f"backbone.resolution={side}"]
        model.append("backbone.dtype=float32")
        for method, choice in METHODS.items():
            runs = root / "runs" / name / method
            concepts = [f"concepts.root={subjects}", "concepts.names=all", f"runs={runs}"]
            command("train", *model, *concepts, *SHORT, *choice)
            found |= _vectors(f"{name}/{method}", runs)
        prompts = ["prompts=['a {} on the grass']", *DRAW, *model, "steps=2"]
        run = _seed_folder(root / "runs" / name / "dti")
        command("generate", f"run={run}", *prompts)
        found |= _pictures(f"{name}/generate", run)
        out = root / "between" / name
        ends = [f"a={run / 'ann'}", f"b={run / 'bob'}", "steps=3", f"out={out}"]
        command("interpolate", *ends, *DRAW, *model, "sampling_steps=2")
        found |= _pictures(f"{name}/interpolate", out)
        command("evaluate", f"run={run}", f"metrics={METRICS}", f"concepts.root={subjects}", "accelerator=cpu")
        found[f"{name}/evaluate"] = _scores(run)
    if "sdxl" in models:
        out = root / "exports"
        command("export", f"run={_seed_folder(root / 'runs' / 'sdxl' / 'dti')}", "to=comfyui", f"out={out}")
        found["sdxl/export"] = _entry([_tensors(file) for file in sorted(out.rglob("*.safetensors"))])
    if "toybox" in models:
        found["benchmark"] = _benchmark(root, subjects)
    return found


def command(name: str, *arguments: str) -> None:
    """Run `python -m dti_repro.<name> <arguments>` in this process."""
    before = sys.argv
    sys.argv = [name, *(_quoted(argument) for argument in arguments)]
    try:
        import_module(f"dti_repro.{name}").main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{name} {' '.join(arguments)}: exit code {end.code}") from end
    finally:
        sys.argv = before


def _quoted(argument: str) -> str:
    """Quote a path with a `=` in it, which Hydra would read as an override."""
    key, _, value = argument.partition("=")
    return f'{key}="{value}"' if "=" in value and value.startswith("/") else argument


def _benchmark(root: Path, subjects: Path) -> Entry:
    """Make a table of two rows from an experiment outside of the project; return its scores."""
    names = METRICS.strip("[]").split(",")
    experiment = {
        "title": "Golden",
        "setup": [
            "backbone=toybox",
            f"backbone.path={root / 'toybox'}",
            "backbone.resolution=16",
            "concepts.names=all",
            f"concepts.root={subjects}",
        ],
        "train": SHORT,
        "generate": ["prompts=['a {} on the grass']", *DRAW, "steps=2"],
        "metrics": {name: name for name in names},
        "image": names[0],
        "text": names[1:],
        "rows": [{"name": name, "overrides": [f"method={name}"]} for name in ("ti", "dti")],
    }
    folder = root / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "golden.yaml").write_text(yaml.safe_dump(experiment))
    own = [f"runs={root / 'runs' / 'benchmark'}", f"out={root / 'tables'}", "accelerator=cpu"]
    command("benchmark", f"--config-dir={folder.parent}", "experiment=golden", *own)
    with (root / "tables" / "golden" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return _entry([np.array([[float(row[name]) for name in names] for row in rows])])


def _subjects(root: Path) -> Path:
    """Write two subjects of noise in the toybox's layout."""
    random = np.random.default_rng(0)
    index = {}
    for name, word in (("ann", "cat"), ("bob", "car")):
        (root / name).mkdir(parents=True)
        images = [f"{k}.png" for k in range(2)]
        for image in images:
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / image)
        index[name] = {"initializer": word, "split": "table", "description": "", "images": images}
    (root / "subjects.yaml").write_text(yaml.safe_dump(index))
    return root


def _seed_folder(runs: Path) -> Path:
    """Return the seed folder of the run below `runs` (the last one by method: a derived method has two)."""
    return sorted(path.parent.parent for path in runs.rglob("ann/embedding*.safetensors"))[-1]


def _vectors(name: str, runs: Path) -> dict[str, Entry]:
    """Return an entry for each concept: its embedding, of each text encoder, and its adapter."""
    return {
        f"{name}/{concept}": _entry([_tensors(file) for file in runs.rglob(f"{concept}/**/*.safetensors")])
        for concept in ("ann", "bob")
    }


def _pictures(name: str, folder: Path) -> dict[str, Entry]:
    return {name: _entry([np.asarray(Image.open(file)) for file in folder.rglob("*.png")])}


def _scores(run: Path) -> Entry:
    """Return all values of all score files, by concept, metric and picture."""
    rows = []
    for file in run.rglob("scores/*.csv"):
        with file.open(newline="") as lines:
            rows += [(row["concept"], row["metric"], row["file"], float(row["value"])) for row in csv.DictReader(lines)]
    return _entry([np.array([value for *_, value in sorted(rows)])])


def _tensors(file: Path) -> np.ndarray:
    """Return all numbers of a safetensors file, by key."""
    content = load_file(file)
    return np.concatenate([content[key].ravel() for key in sorted(content)])


def _entry(arrays: list[np.ndarray]) -> Entry:
    """Return the hash of the arrays' bytes, and mean and spread of each. File names play no part."""
    if not arrays:
        raise RuntimeError("a command left nothing to record")
    arrays = sorted(arrays, key=lambda array: array.tobytes())
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    numbers = [float(f"{value:.6g}") for array in arrays for value in (array.mean(dtype=float), array.std(dtype=float))]
    return {"sha256": digest.hexdigest(), "numbers": numbers}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        text = json.dumps(record(Path(folder)), indent=1, sort_keys=True)
    Path(sys.argv[1]).write_text(text + "\n")
