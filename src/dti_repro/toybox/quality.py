"""``python -m dti_repro.toybox.quality``: how well the base model draws held-out captions, as the reader reads them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

from dti_repro.artifacts.files import atomic_write, write_json
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.launch.command import command
from dti_repro.metrics.attributes import AttributeReader
from dti_repro.toybox.language import full_caption
from dti_repro.toybox.sampling import scene_of


@command("toybox_quality")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    model = StableDiffusion("toybox", cfg.weights, None)
    reader = AttributeReader(cfg.reader)
    scenes = [scene_of(1, cfg.first + k) for k in range(cfg.images)]
    captions = [full_caption(scene, np.random.default_rng([cfg.seed, k])) for k, scene in enumerate(scenes)]
    drawn: list[Image.Image] = []
    for k in track(range(0, len(captions), cfg.batch), "drawing"):
        part = captions[k : k + cfg.batch]
        seeds = range(k, k + len(part))
        drawn += model.generate(part, {}, list(seeds), steps=cfg.steps, guidance=cfg.guidance)
    right: dict[str, list[bool]] = defaultdict(list)
    for scene, read in zip(scenes, reader.read(drawn), strict=True):
        for name, expected in scene.facts().items():
            if expected in reader.heads.get(name, ()):
                right[name].append(read[name] == expected)
    colours = ("color", "accessory_color", "other_color")
    figures = {name: round(float(np.mean(values)), 4) for name, values in right.items()}
    figures["binding"] = round(float(np.mean([value for name in colours for value in right[name]])), 4)
    out = Path(cfg.out)
    write_json(out / "quality.json", {"images": len(drawn), "accuracy": figures, "captions": captions[:64]})
    rows = [
        np.concatenate([np.asarray(image) for image in drawn[k : k + 16]], 1)
        for k in range(0, max(1, min(128, len(drawn) - 15)), 16)
    ]
    with atomic_write(out / "quality.png") as temporary:
        sheet = Image.fromarray(np.concatenate(rows, 0))
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.LANCZOS).save(temporary)
    print(figures)


if __name__ == "__main__":
    main()
