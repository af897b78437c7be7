"""How much faster this project trains, draws and scores than the published code and diffusers' script, side by side.

The two sides of each pair take turns in one process, so that whatever else the machine does slows both. Ratios of CPU
seconds mean something, seconds only on this machine. The networks have SDXL's, DINOv2's and SigLIP's layers and are an
eighth to a tenth as wide. The result is speed.md and speed.csv in `out`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from dti_repro.backbones import load
from dti_repro.config import CONF
from dti_repro.data.concept import Concept, Toybox
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.metrics.networks import write_untrained_metric
from dti_repro.training import trainer
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.train_missing import train
from measured import write_result
from narrow import narrow_sdxl
from others import Drawing, Scoring, Training
from turns import Clock, Pair, Seconds, measure, rows_of, seconds

PROMPTS = ("a {} on the grass", "a {} on the beach", "a red {}", "two {}")
METRICS = ("dinov2", "siglip")


class Ours:
    """This project's commands, called in this process, each time in a new folder of runs."""

    def __init__(self, folder: Path, photos: Path, setup: Sequence[str], cfg: DictConfig) -> None:
        """setup: overrides of all commands that say the backbone."""
        self.folder = folder
        self.setup = setup
        self.cfg = cfg
        self.concepts = ["concepts=toybox", f'concepts.root="{photos}"']
        self.fast = ["progress=false", "accelerator=cpu", f"threads={cfg.threads}"]

    def train(self, names: Sequence[str], *more: str, reload: bool = False) -> Path:
        """Train all concepts in one pass; return the folder of the configuration. reload: read the model from disk."""
        if reload:
            load._load.cache_clear()
        runs = tempfile.mkdtemp(dir=self.folder)
        keys = [f"trainer.{key}" for key in self.fast]
        keys += [f"trainer.batch={self.cfg.batch}", f"trainer.pack={len(names)}", "trainer.fuse=true"]
        keys += [f"concepts.names=[{','.join(names)}]", "method=ti", "templates=toybox", f'runs="{runs}"']
        folders = train(composed("train", *self.setup, *self.concepts, f"trainer.steps={self.cfg.steps}", *keys, *more))
        return folders[0].path.parents[1]

    def sample(self, names: Sequence[str], *more: str) -> Seconds:
        """Return what a training sample takes: from the end of the first step to the end of the last."""
        clocks: list[Clock] = []
        step = InversionModule.training_step

        @wraps(step)
        def noted(*arguments: Any) -> None:
            step(*arguments)
            clocks.append(Clock())

        with patch.object(InversionModule, "training_step", noted):
            self.train(names, *more)
        first, last = clocks[0], clocks[-1]
        samples = (len(clocks) - 1) * self.cfg.batch * len(names)
        return Seconds(last.cpu - first.cpu, last.wall - first.wall) / samples

    def draw(self, run: Path) -> None:
        shown = [f"prompts=[{','.join(map(repr, PROMPTS))}]", f"seeds={list(range(self.cfg.seeds))}".replace(" ", "")]
        size = [f"{side}={self.cfg.size}" for side in ("width", "height")]
        shown += [f"steps={self.cfg.image_steps}", f"batch={self.cfg.image_batch}", "sampler=default", *size]
        generate(composed("generate", f'run="{run}"', *self.setup, *self.concepts, *shown, *self.fast))

    def score(self, run: Path, metrics: Path) -> None:
        named = ",".join(f'"{metrics / metric}.yaml"' for metric in METRICS)
        evaluate(composed("evaluate", f'run="{run}"', f"metrics=[{named}]", *self.concepts, "accelerator=cpu"))


def composed(command: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return hydra.compose(command, list(overrides))


def published_sample(training: Callable[[], Training], steps: int) -> Seconds:
    """Return what a training sample takes, without the first step."""
    made = training()
    taken = made.steps()
    next(taken)
    return seconds(lambda: [next(taken) for _ in range(steps - 1)], (steps - 1) * made.batch)


def write_photos(folder: Path, concepts: Sequence[Concept], side: int) -> None:
    """Write the concepts with photos of this many pixels, as JPEG, as a set that the toybox's configuration reads."""
    index = {}
    for concept in concepts:
        names = [f"{number}.jpg" for number in range(len(concept.images))]
        (folder / concept.name).mkdir(parents=True)
        for name, path in zip(names, concept.images, strict=True):
            with Image.open(path) as photo:
                photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(folder / concept.name / name)
        index[concept.name] = {"initializer": concept.initializer, "split": "table", "images": names}
    OmegaConf.save(OmegaConf.create(index), folder / "subjects.yaml")


class Comparison:
    """The pairs on the narrow SDXL."""

    def __init__(self, scratch: Path, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.scratch = scratch
        self.checkpoint = narrow_sdxl(scratch / "narrow")
        photos = scratch / "photos"
        write_photos(photos, Toybox(names="all").load()[: cfg.subjects], cfg.photo)
        self.subjects = Toybox(names="all", root=str(photos)).load()
        self.metrics = scratch / "metrics"
        self.metrics.mkdir()
        for metric in METRICS:
            write_untrained_metric(metric, self.metrics, OmegaConf.to_container(cfg.widths))
        self.scoring = Scoring(
            *(self.metrics / name for name in ("facebook-dinov2-base", "google-siglip-base-patch16-512"))
        )
        setup = ["backbone=sdxl", f'backbone.path="{self.checkpoint}"', f"backbone.resolution={cfg.size}"]
        self.ours = Ours(scratch, photos, [*setup, "backbone.dtype=float32"], cfg)
        self.training = partial(Training, self.checkpoint, self.subjects[0], cfg.size, cfg.batch)

    def pairs(self) -> list[Pair]:
        one, repeats = [self.subjects[0].name], self.cfg.repeats
        pair = partial(measure, repeats=repeats)
        found = [
            pair(
                "a training sample: published loop / ours",
                lambda: published_sample(self.training, self.cfg.steps),
                lambda: self.ours.sample(one),
            ),
            pair(
                "a training sample: diffusers' loop / ours",
                lambda: published_sample(partial(self.training, whole_table=True), self.cfg.steps),
                lambda: self.ours.sample(one),
            ),
        ]
        if has_bfloat16():
            bf16 = ["backbone.dtype=bfloat16", "trainer.precision=bf16"]
            found.append(
                pair(
                    "a training sample in bfloat16: published loop / ours",
                    lambda: published_sample(partial(self.training, bf16=True), self.cfg.steps),
                    lambda: self.ours.sample(one, *bf16),
                )
            )
        found += [self._images(), self._scores()]
        found.append(
            pair(
                f"{len(self.subjects)} subjects from photos to scores: published / ours",
                lambda: seconds(self._published_column),
                lambda: seconds(self._our_column),
            )
        )
        return found

    def _images(self) -> Pair:
        """Compare what an image takes to draw and to write."""
        run = self.ours.train([self.subjects[0].name])
        learned = self.training()
        learned.save(self.scratch / "word.safetensors")
        drawing = Drawing(self.checkpoint)
        drawing.add(self.scratch / "word.safetensors", "<word>")
        images = len(PROMPTS) * self.cfg.seeds

        def ours() -> Seconds:
            for folder in run.rglob("images"):
                shutil.rmtree(folder)
            return seconds(lambda: self.ours.draw(run), images)

        def published() -> Seconds:
            return seconds(lambda: self._published_images(drawing, "<word>", "word"), images)

        return measure("an image drawn: published / ours", published, ours, self.cfg.repeats)

    def _scores(self) -> Pair:
        """Compare what an image takes to score."""
        subject = self.subjects[0]
        run = self.ours.train([subject.name])
        self.ours.draw(run)
        images = len(PROMPTS) * self.cfg.seeds

        def ours() -> Seconds:
            for folder in run.rglob("scores"):
                shutil.rmtree(folder)
            return seconds(lambda: self.ours.score(run, self.metrics), images)

        def published() -> Seconds:
            return seconds(lambda: self._published_scores(subject, "word"), images)

        return measure("an image scored: published / ours", published, ours, self.cfg.repeats)

    def _published_images(self, drawing: Drawing, token: str, name: str) -> None:
        cfg = self.cfg
        folder = self.scratch / "published" / name
        drawing.draw(token, PROMPTS, range(cfg.seeds), folder, cfg.image_steps, cfg.size, cfg.image_batch)

    def _published_scores(self, subject: Concept, name: str) -> None:
        files = sorted((self.scratch / "published" / name).rglob("*.png"))
        texts = [file.stem.replace("_", " ").format(subject.class_word) for file in files]
        self.scoring.score(files, texts, subject.images)

    def _published_column(self) -> None:
        """Train a model for each subject, draw with one pipeline, score."""
        for subject in self.subjects:
            training = Training(self.checkpoint, subject, self.cfg.size, self.cfg.batch)
            steps = training.steps()
            for _ in range(self.cfg.steps):
                next(steps)
            training.save(self.scratch / f"{subject.name}.safetensors")
        drawing = Drawing(self.checkpoint)
        for subject in self.subjects:
            drawing.add(self.scratch / f"{subject.name}.safetensors", subject.placeholder)
            self._published_images(drawing, subject.placeholder, subject.name)
        for subject in self.subjects:
            self._published_scores(subject, subject.name)

    def _our_column(self) -> None:
        run = self.ours.train([subject.name for subject in self.subjects], reload=True)
        self.ours.draw(run)
        self.ours.score(run, self.metrics)


def toybox_pairs(scratch: Path, cfg: DictConfig) -> list[Pair]:
    """Compare ways of this project with each other, on the toybox."""
    concepts = [concept.name for concept in Toybox(names="all").load()]
    ours = Ours(scratch, Toybox().root, ["backbone=toybox"], cfg)

    def apart(names: Sequence[str]) -> Seconds:
        each = [ours.sample([name]) for name in names]
        return Seconds(sum(one.cpu for one in each), sum(one.wall for one in each)) / len(names)

    pairs = [
        measure(
            f"toybox, a training sample: {number} concepts one after the other / in one pass",
            partial(apart, concepts[:number]),
            partial(ours.sample, concepts[:number]),
            cfg.repeats,
        )
        for number in cfg.packs
    ]
    if has_bfloat16():
        fast = partial(ours.sample, concepts, "trainer.precision=bf16")

        def fused() -> Seconds:
            with patch.object(trainer, "_attention", lambda *_: nullcontext()):
                return fast()

        pack = f"{len(concepts)} concepts in one pass"
        pairs += [
            measure(
                f"toybox, a training sample, {pack}: float32 / bfloat16",
                partial(ours.sample, concepts),
                fast,
                cfg.repeats,
            ),
            measure(
                f"toybox, a training sample, {pack}, bfloat16: torch's fused attention / products",
                fused,
                fast,
                cfg.repeats,
            ),
        ]
    return pairs


def has_bfloat16() -> bool:
    """Return whether the processor computes with bfloat16; others do it in software, far slower than float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@hydra.main(version_base="1.3", config_path=".", config_name="speed")
def main(cfg: DictConfig) -> None:
    hydra.core.global_hydra.GlobalHydra.instance().clear()  # the commands compose configurations of their own
    torch.set_num_threads(cfg.threads)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [*Comparison(Path(scratch), cfg).pairs(), *toybox_pairs(Path(scratch), cfg)]
    images = len(PROMPTS) * cfg.seeds
    about = (
        f"Made by `{' '.join(['python', *sys.argv])}`: medians of {cfg.repeats} turns, {cfg.threads} thread(s), "
        f"steps of batch {cfg.batch}. SDXL is narrow: its layers, a tenth as wide, at {cfg.size} px, with photos of "
        f"{cfg.photo} px; DINOv2 and SigLIP are an eighth as wide, at their own sizes. Images take "
        f"{cfg.image_steps} steps. The column of {cfg.subjects} subjects has {cfg.steps} steps and {images} images a "
        "subject; the paper's have 400 steps and 100 images. The published and diffusers' loops are written again in "
        "`benchmarks/others.py`, without checkpoints and validation pictures. Compare ratios: above 1, the second way "
        "is faster."
    )
    write_result(Path(cfg.out), "speed", "Speed", about, rows_of(pairs), ["torch", "diffusers", "transformers"])


if __name__ == "__main__":
    main()
