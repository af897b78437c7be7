"""How much faster the trainer and the evaluator are than the plain way, side by side in one process.

Ratios mean something, seconds only on this machine: the two sides of each pair take turns, so that whatever else the
machine does slows both. The result is speed.md and speed.csv in `out`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from dti_repro.backbones import load
from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.backbones.stable_diffusion import ENCODER, StableDiffusion
from dti_repro.config import CONF
from dti_repro.data.concept import Concept, Toybox
from dti_repro.data.photos import load_photo
from dti_repro.data.views import fitted
from dti_repro.metrics.base import Sample
from dti_repro.metrics.encoders import TimmEncoder
from dti_repro.metrics.similarity import ReferenceSimilarity
from dti_repro.training.train_missing import train
from measured import write_result
from narrow import narrow_sd

TEMPLATES = ("a photo of a {}", "a picture of a {}", "there is a {}", "the {}")


@dataclass(frozen=True)
class Pair:
    """Two ways to the same thing and how long they took, in seconds."""

    what: str
    plain: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        return [plain / ours for plain, ours in zip(self.plain, self.ours, strict=True)]


def measure(what: str, plain: Callable[[], object], ours: Callable[[], object], repeats: int) -> Pair:
    """Turn by turn; one turn of each before the clock counts."""
    plain(), ours()
    pair = Pair(what, [], [])
    for _ in range(repeats):
        for side, action in ((pair.plain, plain), (pair.ours, ours)):
            began = time.perf_counter()
            action()
            side.append(time.perf_counter() - began)
    print(f"{what}: {statistics.median(pair.ratios):.2f}x", flush=True)
    return pair


def plain_training(checkpoint: Path, concepts: Sequence[Concept], steps: int, batch: int) -> None:
    """Textual Inversion as the usual script does it: a model for each concept, photos encoded at each step."""
    for concept in concepts:
        backbone = StableDiffusion("plain", str(checkpoint), None)
        start = backbone.embed_initializer(concept.name, concept.initializer, 0)
        word = torch.nn.Parameter(start.rows[ENCODER].clone())
        optimizer = torch.optim.AdamW([word], lr=0.02, weight_decay=0.01)
        random = torch.Generator().manual_seed(0)
        for step in range(steps):
            chosen = [concept.images[(step * batch + i) % len(concept.images)] for i in range(batch)]
            square = (backbone.spec.resolution,) * 2
            photos = [np.asarray(fitted(load_photo(path), square)) for path in chosen]
            pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = backbone.encode_images(pixels)
            latents = posterior.sample(torch.arange(batch), torch.randn(posterior.mean.shape, generator=random))
            prompts = [TEMPLATES[(step + i) % len(TEMPLATES)].format(concept.placeholder) for i in range(batch)]
            tokens = backbone.tokenize(prompts, {concept.placeholder: len(word)})
            hidden = backbone.encode_text(tokens, {ENCODER: word[None, None].expand(batch, -1, -1, -1)})
            t = torch.randint(backbone.spec.timesteps, (batch,), generator=random)
            noise = torch.randn(latents.shape, generator=random)
            optimizer.zero_grad()
            backbone.loss(latents, noise, t, hidden).mean().backward()
            optimizer.step()


def our_training(checkpoint: Path, concepts: Sequence[Concept], cfg: DictConfig, *, reload: bool = False) -> None:
    """The project's own command, all concepts in one pass, into a folder that is thrown away. reload: the model is read
    from disk in it."""
    if reload:
        load._load.cache_clear()
    names = ",".join(concept.name for concept in concepts)
    with tempfile.TemporaryDirectory() as runs, hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        trainer = {"steps": cfg.steps, "batch": cfg.batch, "threads": cfg.threads, "progress": "false"}
        trainer |= {"pack": len(concepts), "fuse": "true"}
        keys = [f"trainer.{key}={value}" for key, value in trainer.items()]
        composed = hydra.compose(
            "train",
            ["method=ti", f"concepts.names=[{names}]", f'backbone.path="{checkpoint}"', f'runs="{runs}"', *keys],
        )
        train(composed)


def evaluation(images: Sequence[Image.Image], concept: Concept, repeats: int) -> Pair:
    """A reference score of images in batches of 16: references encoded with each batch, and once."""
    metric = ReferenceSimilarity(TimmEncoder.load("toybox:subject_encoder"))
    sample = Sample(concept.name, "")

    def run(again: bool) -> None:
        photos = [load_photo(path) for path in concept.images]
        for begin in range(0, len(images), 16):
            if again or begin == 0:
                metric.set_references(concept.name, photos)
            batch = images[begin : begin + 16]
            metric.score(batch, [sample] * len(batch))

    what = f"evaluator, {len(images)} images: references encoded with each batch / once"
    return measure(what, lambda: run(True), lambda: run(False), repeats)


def rows_of(pairs: Sequence[Pair]) -> list[list[str]]:
    """Return the lines of the table, its head first."""
    rows = [["what", "plain s", "ours s", "ratio", "ratio min", "ratio max"]]
    for pair in pairs:
        seconds = (f"{statistics.median(side):.3f}" for side in (pair.plain, pair.ours))
        ratios = (f"{value:.2f}" for value in (statistics.median(pair.ratios), min(pair.ratios), max(pair.ratios)))
        rows.append([pair.what, *seconds, *ratios])
    return rows


@hydra.main(version_base="1.3", config_path=".", config_name="speed")
def main(cfg: DictConfig) -> None:
    hydra.core.global_hydra.GlobalHydra.instance().clear()  # the trainings compose configurations of their own
    torch.set_num_threads(cfg.threads)
    concepts = Toybox(names="all").load()
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        narrow = narrow_sd(Path(scratch) / "narrow")
        for name, checkpoint in (("toybox", PACKAGED), ("narrow SD 1.x, 256 px", narrow)):
            few = concepts[:2]
            pairs.append(
                measure(
                    f"{name}: plain loop / this trainer, {len(few)} concepts, loading included",
                    lambda c=checkpoint, f=few: plain_training(c, f, cfg.steps, cfg.batch),
                    lambda c=checkpoint, f=few: our_training(c, f, cfg, reload=True),
                    cfg.repeats,
                )
            )
    for count in cfg.packs:
        some = concepts[:count]
        pairs.append(
            measure(
                f"toybox: {len(some)} concepts one after the other / in one pass, model loaded before",
                lambda s=some: [our_training(PACKAGED, [one], cfg) for one in s],
                lambda s=some: our_training(PACKAGED, s, cfg),
                cfg.repeats,
            )
        )
    noise = np.random.default_rng(0).integers(0, 256, (cfg.images, 48, 48, 3), dtype=np.uint8)
    pairs.append(evaluation([Image.fromarray(pixels) for pixels in noise], concepts[0], cfg.repeats))
    about = (
        f"Made by `{' '.join(['python', *sys.argv])}`: medians of {cfg.repeats} turns, {cfg.steps} steps of batch "
        f"{cfg.batch}, {cfg.threads} threads. Compare ratios: plain / ours, measured side by side in one process. "
        "Above 1, ours is faster."
    )
    write_result(Path(cfg.out), "speed", "Speed", about, rows_of(pairs), ["torch", "timm"])


if __name__ == "__main__":
    main()
