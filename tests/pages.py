"""A small result to make a page of: rows with scores and drawn pictures, without a model. Nothing of it is measured."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dti_repro.artifacts.manifest import NAME, Manifest, ManifestImage
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.artifacts.scores import ScoreRow, write_scores
from dti_repro.data.concept import Concept
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.page.write import write_page
from dti_repro.experiments.report import Report, make_report, write_tables
from dti_repro.experiments.spec import Claim, Experiment, Published, RowSpec
from dti_repro.experiments.stages import RowResult, means_of
from dti_repro.experiments.tables import Row
from dti_repro.inference.image_folder import ImageFolder
from dti_repro.metrics.evaluator import ScoreFile

METRICS = {"image": "image", "text": "CLIP-T", "more": "binding"}
COLOURS = ("red", "blue", "lime", "orange", "purple", "teal")
COMMAND = "python -m dti_repro.benchmark experiment=example"


@dataclass
class Example:
    """What an example is made of; `made` writes its files and its page below a folder."""

    labels: Mapping[str, str] = field(default_factory=lambda: {"class": "class word", "ti": "TI", "dti": "DTI"})
    concepts: Sequence[str] = ("rex", "tom")
    prompts: Sequence[str] = ("a {} on a beach", "a {} in a hat")
    seeds: Sequence[int] = (0, 1)
    trained: Sequence[int] = (42,)  # training seeds
    side: int = 48
    steps: Sequence[int] = ()  # of snapshots that are drawn, of the first prompt and seed
    title: str = "An example"
    notes: tuple[str, ...] = ()
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def made(self, root: Path) -> tuple[Path, Report, ExperimentRun, list[RowResult]]:
        """Write <root>/result/ and the runs behind it; return the page and what it was made of."""
        specs = [
            RowSpec(name, label, bound="class")
            if name == "class"
            else RowSpec(
                name,
                label,
                (f"method={'dti' if name.startswith('dti') else 'ti'}",),
                published=Published(image=0.5, text=0.3, source="a paper") if name == "ti" else None,
            )
            for name, label in self.labels.items()
        ]
        experiment = Experiment(
            name="example",
            title=self.title,
            setup=(),
            metrics=METRICS,
            image="image",
            text=("text",),
            rows=tuple(specs),
            claims=(Claim("dti", "ti", "DTI has more text than TI", "a paper", ("text",)),),
            baselines=("dti",),
            notes=self.notes,
        )
        concepts = {name: Concept(name, f"<{name}>", "dog", self._photos(root, name)) for name in self.concepts}
        drawing = ("prompts=['a {}']", f"seeds=[{','.join(map(str, self.seeds))}]")
        run = ExperimentRun(experiment, str(root / "runs"), generate=drawing, concepts=concepts)
        results = [self._result(root, run, spec, place) for place, spec in enumerate(specs)]
        rows = [
            Row(
                r.spec.name,
                r.spec.label,
                means_of(r.score_files, METRICS),
                {"norm": f"0.{place}", "published image": "0.5"},
            )
            for place, r in enumerate(results)
        ]
        report = make_report(run, rows, ["norm", "published image"], COMMAND, False)
        write_tables(root / "result", report)
        return write_page(root / "result", report, run, results), report, run, results

    def picture(self, path: Path, colour: str, text: str = "") -> Path:
        """Draw a picture of one colour, with a dot whose place depends on the text."""
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (self.side, self.side), colour)
        x = sum(map(ord, text)) * 7 % (self.side // 2)
        ImageDraw.Draw(image).ellipse((x, x, x + self.side // 4, x + self.side // 4), "white")
        image.save(path)
        return path

    def _photos(self, root: Path, name: str) -> tuple[Path, ...]:
        return tuple(self.picture(root / "photos" / name / f"{i}.png", "gray", f"{name}{i}") for i in range(2))

    def _result(self, root: Path, run: ExperimentRun, spec: RowSpec, place: int) -> RowResult:
        result = RowResult(spec, run.train_configs(spec))
        names = ["text"] if spec.bound else [f"seed_{seed}" for seed in self.trained]
        for name, (number, concept) in product(names, enumerate(self.concepts)):
            folder = ConceptFolder(root / "runs" / spec.name / name / concept)
            listed = [(i, prompt, seed) for i, prompt in enumerate(self.prompts) for seed in self.seeds]
            drawn = self._draw(folder.images / "final", concept, listed, COLOURS[place % len(COLOURS)], {})
            result.image_folders.append(drawn)
            file = ScoreFile(folder.path / "scores" / "final.csv", ())
            scores = [
                ScoreRow(f"p{i}_s{seed}.png", prompt, prompt, seed, concept, metric, self._value(place, number))
                for i, prompt, seed in listed
                for metric in METRICS
            ]
            write_scores(file.csv, scores)
            result.score_files.append(file)
            if not spec.bound:
                self._log(folder.log, place)
                result.folders.append(folder)
                for step in self.steps:
                    self._draw(folder.images / f"at{step}", concept, listed[:1], "white", {"snapshot": step})
        return result

    def _draw(
        self, folder: Path, concept: str, listed: Sequence[tuple[int, str, int]], colour: str, more: Mapping[str, int]
    ) -> ImageFolder:
        images = []
        for i, prompt, seed in listed:
            path = self.picture(folder / f"p{i}_s{seed}.png", colour, f"{prompt}{seed}{more}")
            images.append(ManifestImage(path.name, prompt, prompt, prompt, seed, (concept,)))
        manifest = Manifest({"steps": 4, "prompts": "example", "seeds": [0], **more}, {}, tuple(images))
        manifest.write(folder / NAME)
        return ImageFolder(folder, manifest)

    def _value(self, place: int, number: int) -> float:
        return float(0.3 + 0.1 * place + 0.02 * number + self.random.normal(0, 0.01))

    def _log(self, path: Path, place: int) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss", "norm", "angle", "grad_norm"])
            writer.writerows([step, 1 / step, 0.5 + place * step / 100, step / 400, 0.1] for step in range(1, 401))
