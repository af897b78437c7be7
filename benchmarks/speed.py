"""How much faster this project trains, draws and scores than the published code and diffusers' script, side by side.

The two sides of each pair take turns in one process, so that whatever else the machine does slows both. Ratios of CPU
seconds mean something, seconds only on this machine. The networks have SDXL's, DINOv2's and SigLIP's layers and are an
eighth to a tenth as wide. The result is speed.md and speed.csv in `out`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from dti_repro.backbones import load
from dti_repro.data.concept import Concept, Toybox
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.launch.command_line import compose
from dti_repro.metrics.networks import write_untrained_metric
from dti_repro.training import trainer
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.train_missing import train
from measured import write_result
from narrow import narrow_sdxl
from others import Drawing, Scoring, Training
from turns import Pair, Seconds, measure, rows_of, seconds

PROMPTS = ("a {} on the grass", "a {} on the beach", "a red {}", "two {}")
METRICS = ("dinov2", "siglip")
DTYPE = "backbone.dtype=bfloat16"
BF16 = (DTYPE, "trainer.precision=bf16")


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
        keys = [*self.setup, *self.concepts, f"trainer.steps={self.cfg.steps}", *keys, *more]
        folders = train(compose("train", keys))
        return folders[0].path.parents[1]

    def sample(self, names: Sequence[str], *more: str) -> Seconds:
        """Return what a training sample takes: from the end of the first step to the end of the last."""
        stamps: list[Seconds] = []
        step = InversionModule.training_step

        @wraps(step)
        def noted(*arguments: Any) -> None:
            step(*arguments)
            stamps.append(Seconds.now())

        with patch.object(InversionModule, "training_step", noted):
            self.train(names, *more)
        return (stamps[-1] - stamps[0]) / ((len(stamps) - 1) * self.cfg.batch * len(names))

    def draw(self, run: Path, seeds: int, *more: str) -> None:
        shown = [f"prompts=[{','.join(map(repr, PROMPTS))}]", f"seeds={list(range(seeds))}".replace(" ", "")]
        size = [f"{side}={self.cfg.size}" for side in ("width", "height")]
        shown += [f"steps={self.cfg.image_steps}", f"batch={self.cfg.image_batch}", "sampler=default", *size]
        generate(compose("generate", [f'run="{run}"', *self.setup, *self.concepts, *shown, *self.fast, *more]))

    def score(self, run: Path, metrics: Path) -> None:
        named = ",".join(f'"{metrics / metric}.yaml"' for metric in METRICS)
        evaluate(compose("evaluate", [f'run="{run}"', f"metrics=[{named}]", *self.concepts, "accelerator=cpu"]))


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

    def pairs(self) -> Iterator[Pair]:
        one = [self.subjects[0].name]

        def sample(how: str, theirs: dict[str, bool], *ours: str) -> Pair:
            return measure(
                f"a training sample{how} / ours",
                lambda: published_sample(partial(self.training, **theirs), self.cfg.steps),
                lambda: self.ours.sample(one, *ours),
                self.cfg.repeats,
            )

        yield sample(": published loop", {})
        yield sample(": diffusers' loop", {"whole_table": True})
        if has_bfloat16():
            yield sample(" in bfloat16: published loop", {"bf16": True}, *BF16)
            yield sample(" in bfloat16, ours compiled: published loop", {"bf16": True}, *BF16, "backbone.compile=true")
        yield self._images()
        yield self._scores()
        for bf16 in (False, True) if has_bfloat16() else (False,):
            column = f"{len(self.subjects)} subjects from photos to scores{', in bfloat16' if bf16 else ''}"
            yield measure(
                f"{column}: published / ours",
                lambda bf16=bf16: seconds(partial(self._published_end_to_end, bf16)),
                lambda bf16=bf16: seconds(partial(self._our_end_to_end, bf16)),
                self.cfg.repeats,
            )

    def _images(self) -> Pair:
        """Compare what an image takes to draw and to write."""
        run = self.ours.train([self.subjects[0].name])
        learned = self.training()
        learned.save(self.scratch / "word.safetensors")
        drawing = Drawing(self.checkpoint)
        drawing.add(self.scratch / "word.safetensors", "<word>")
        seeds = self.cfg.seeds_of_one
        images = len(PROMPTS) * seeds

        def ours() -> Seconds:
            for folder in run.rglob("images"):
                shutil.rmtree(folder)
            return seconds(lambda: self.ours.draw(run, seeds), images)

        def published() -> Seconds:
            return seconds(lambda: self._published_images(drawing, "<word>", "word", seeds), images)

        return measure("an image drawn: published / ours", published, ours, self.cfg.repeats)

    def _scores(self) -> Pair:
        """Compare what an image takes to score."""
        subject = self.subjects[0]
        run = self.ours.train([subject.name])
        self.ours.draw(run, self.cfg.seeds_of_one)
        images = len(PROMPTS) * self.cfg.seeds_of_one

        def ours() -> Seconds:
            for folder in run.rglob("scores"):
                shutil.rmtree(folder)
            return seconds(lambda: self.ours.score(run, self.metrics), images)

        def published() -> Seconds:
            return seconds(lambda: self._published_scores(subject, "word"), images)

        return measure("an image scored: published / ours", published, ours, self.cfg.repeats)

    def _published_images(self, drawing: Drawing, token: str, name: str, seeds: int) -> None:
        cfg = self.cfg
        folder = self.scratch / "published" / name
        drawing.draw(token, PROMPTS, range(seeds), folder, cfg.image_steps, cfg.size, cfg.image_batch)

    def _published_scores(self, subject: Concept, name: str) -> None:
        files = sorted((self.scratch / "published" / name).rglob("*.png"))
        texts = [file.stem.replace("_", " ").format(subject.class_word) for file in files]
        self.scoring.score(files, texts, subject.images)

    def _published_end_to_end(self, bf16: bool) -> None:
        """Train a model for each subject, draw with one pipeline, score. Evaluators stay in float32."""
        for subject in self.subjects:
            training = Training(self.checkpoint, subject, self.cfg.size, self.cfg.batch, bf16=bf16)
            steps = training.steps()
            for _ in range(self.cfg.steps):
                next(steps)
            training.save(self.scratch / f"{subject.name}.safetensors")
        drawing = Drawing(self.checkpoint, bf16)
        for subject in self.subjects:
            drawing.add(self.scratch / f"{subject.name}.safetensors", subject.placeholder)
            self._published_images(drawing, subject.placeholder, subject.name, self.cfg.seeds)
        for subject in self.subjects:
            self._published_scores(subject, subject.name)

    def _our_end_to_end(self, bf16: bool) -> None:
        names = [subject.name for subject in self.subjects]
        run = self.ours.train(names, *(BF16 if bf16 else ()), reload=True)
        self.ours.draw(run, self.cfg.seeds, *([DTYPE] if bf16 else ()))
        self.ours.score(run, self.metrics)


def toybox_pairs(scratch: Path, cfg: DictConfig) -> Iterator[Pair]:
    """Compare ways of this project with each other, on the toybox."""
    concepts = [concept.name for concept in Toybox(names="all").load()]
    ours = Ours(scratch, Toybox().root, ["backbone=toybox"], cfg)

    def apart(names: Sequence[str]) -> Seconds:
        each = [ours.sample([name]) for name in names]
        return Seconds(sum(one.cpu for one in each), sum(one.wall for one in each)) / len(names)

    for number in cfg.packs:
        yield measure(
            f"toybox, a training sample: {number} concepts one after the other / in one pass",
            partial(apart, concepts[:number]),
            partial(ours.sample, concepts[:number]),
            cfg.repeats,
        )
    pack, one = f"toybox, a training sample, {len(concepts)} concepts in one pass", partial(ours.sample, concepts)
    compiled = "backbone.compile=true"
    yield measure(f"{pack}: eager / compiled", one, partial(one, compiled), cfg.repeats)
    if has_bfloat16():
        fast = partial(ours.sample, concepts, "trainer.precision=bf16")

        def fused() -> Seconds:
            with patch.object(trainer, "product_attention", nullcontext):
                return fast()

        yield measure(f"{pack}: float32 / bfloat16", one, fast, cfg.repeats)
        yield measure(f"{pack}, bfloat16: torch's fused attention / products", fused, fast, cfg.repeats)
        yield measure(f"{pack}, bfloat16: eager / compiled", fast, partial(fast, compiled), cfg.repeats)


def has_bfloat16() -> bool:
    """Return whether the processor computes with bfloat16; others do it in software, far slower than float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@hydra.main(version_base="1.3", config_path=".", config_name="speed")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    images, images_of_one = (len(PROMPTS) * seeds for seeds in (cfg.seeds, cfg.seeds_of_one))
    about = (
        f"Made by `{' '.join(['python', *sys.argv])}`: medians of {cfg.repeats} turns, {cfg.threads} thread(s), "
        f"steps of batch {cfg.batch}. SDXL is narrow: its layers, a tenth as wide, at {cfg.size} px, with photos of "
        f"{cfg.photo} px; DINOv2 and SigLIP are an eighth as wide, at their own sizes. Images take "
        f"{cfg.image_steps} steps; an image drawn or scored is a mean over {images_of_one}. The column of "
        f"{cfg.subjects} subjects has {cfg.steps} steps and {images} images a subject; the paper's have 400 steps and "
        "100 images. Compiling is not counted. The published and diffusers' loops are written again in "
        "`benchmarks/others.py`, without checkpoints and validation pictures. Compare ratios: above 1, the second way "
        "is faster."
    )
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in chain(Comparison(Path(scratch), cfg).pairs(), toybox_pairs(Path(scratch), cfg)):
            pairs.append(pair)
            write_result(Path(cfg.out), "speed", "Speed", about, rows_of(pairs), ["torch", "diffusers", "transformers"])


if __name__ == "__main__":
    main()
