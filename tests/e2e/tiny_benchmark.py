"""A tiny world for `dti benchmark`: subjects, evaluators, experiments, and the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import timm
import torch
import yaml
from PIL import Image

CONCEPTS = ("rex", "tom", "zoe")
EXTRA = ["trainer.steps=4", "trainer.batch=2", "trainer.progress=false", "trainer.threads=1"]


def make_world(root: Path, checkpoint: Path) -> Path:
    """Write three subjects, two evaluators, a table, a search and others, all tiny, and return the folder."""
    rng = np.random.default_rng(0)
    subjects = {}
    for name in CONCEPTS:
        (root / "subjects" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "subjects" / name / f"{i}.png")
        words = {"initializer": "cat", "split": "table", "description": "red cat"}
        subjects[name] = {**words, "images": ["0.png", "1.png"]}
    (root / "subjects" / "subjects.yaml").write_text(yaml.safe_dump(subjects))
    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    reader = timm.create_model("vit_tiny_patch16_224", num_classes=4, **arguments)
    timm.models.save_for_hf(reader, root / "reader", model_args=arguments, safe_serialization=True)
    heads = {"class": ["cat", "dog"], "background": ["beach", "sky"]}
    (root / "reader" / "heads.json").write_text(json.dumps(heads))
    weights = f"local-dir:{root / 'reader'}"
    encoder = {"_target_": "dti_repro.metrics.encoders.TimmEncoder.load", "checkpoint": weights}
    image = {"_target_": "dti_repro.metrics.similarity.ReferenceSimilarity", "encoder": encoder}
    text = {"_target_": "dti_repro.metrics.attributes.AttributeAccuracy", "checkpoint": weights}
    (root / "image.yaml").write_text(yaml.safe_dump(image))
    (root / "text.yaml").write_text(yaml.safe_dump({**text, "keys": ["class", "background"]}))
    prompts = [
        {"template": f"a {{}} {place}", "expect": {"background": b}}
        for place, b in (("on a beach", "beach"), ("in the sky", "sky"))
    ]
    (root / "prompts.yaml").write_text(yaml.safe_dump({"name": "tiny", "prompts": prompts}))
    _write_experiments(root, checkpoint)
    return root


def _write_experiments(root: Path, checkpoint: Path) -> None:
    image, text = str(root / "image.yaml"), str(root / "text.yaml")
    shared = {
        "title": "Tiny",
        "setup": [
            "backbone=toybox",
            f"backbone.path={checkpoint}",
            "concepts.names=all",
            f"concepts.root={root}/subjects",
        ],
        "train": EXTRA,
        "generate": [f"prompts={root}/prompts.yaml", "steps=1", "progress=false", "threads=1", "seeds=[0,1]"],
        "metrics": {image: "image", text: "text"},
        "image": image,
        "text": [text],
    }
    bounds = [{"name": b, "bound": b} for b in ("class", "description", "references")]
    rows = [
        {"name": "ti", "label": "TI", "overrides": ["method=ti"], "published": {"image": 0.561, "source": "paper"}},
        {"name": "ti_rescaled", "overrides": ["method=ti_rescaled"]},
        {"name": "dti", "label": "DTI", "overrides": ["method=dti"]},
    ]
    claims = [{"better": "dti", "worse": "ti", "says": "DTI > TI", "source": "me", "metrics": [text]}]
    table = {**shared, "rows": [*bounds, *rows], "claims": claims, "baselines": ["dti"], "subjects": 2}
    searched = [
        {"name": "k0", "method": "dti", "overrides": ["method=dti", "method.prior.kappa=0"]},
        {"name": "k50", "method": "dti", "overrides": ["method=dti"], "kappa": {"fraction": 0.5, "of": "k0"}},
    ]
    search = {**shared, "rows": [*bounds, *searched], "search": True}
    wrong = {**shared, "rows": [{"name": "bad", "overrides": ["method=ti", "method.prior.kappa=1"]}]}
    learned = [row for row in rows if row["name"] != "ti_rescaled"]
    ways = [
        {"name": f"{row['name']}_way", "label": row["name"], "row": row["name"], "mode": "slerp"} for row in learned
    ]
    paths = {"points": 4, "reader": text, "ways": ways}
    between = {**shared, "rows": learned, "paths": paths, "training_seeds": [42, 43]}
    by_step = {**shared, "rows": [bounds[0], *rows], "snapshots": [2, 4], "subjects": 2}
    (root / "conf" / "experiment").mkdir(parents=True)
    tables = {"tiny": table, "tiny_search": search, "wrong": wrong, "between": between, "by_step": by_step}
    for name, content in tables.items():
        (root / "conf" / "experiment" / f"{name}.yaml").write_text(yaml.safe_dump(content))


def run(
    root: Path,
    experiment: str,
    *options: str,
    into: str = "",
    overrides: tuple[str, ...] = (),
    command: str = "benchmark",
) -> subprocess.CompletedProcess[str]:
    """Give the command: with options of Python in a process of its own, and else in this one, where torch is loaded."""
    paths = [f"runs={root}/runs{into}", f"out={root}/out{into}", f"searched={root}/searched.yaml"]
    paths += ["accelerator=cpu"] if command == "benchmark" else []
    arguments = ["--config-dir", str(root / "conf"), f"experiment={experiment}", *paths, *overrides]
    if options:
        line = [sys.executable, *options, "-m", f"dti_repro.{command}", *arguments]
        return subprocess.run(line, capture_output=True, text=True)
    code, out, err = 0, StringIO(), StringIO()
    with patch.object(sys, "argv", [command, *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            import_module(f"dti_repro.{command}").main()
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def lines(path: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
