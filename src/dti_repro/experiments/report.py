"""The files of an experiment's result: tables as Markdown and CSV, front.png, grid.png, report.html, provenance.json.

Imports no torch, except to write a new provenance.json.
"""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import sub
from pathlib import Path

from omegaconf import DictConfig
from pandas import DataFrame
from PIL import Image

from dti_repro.artifacts.files import atomic_write, read_json, sha256, write_json
from dti_repro.artifacts.provenance import machines, provenance
from dti_repro.data.photos import load_photo
from dti_repro.experiments.figures import Sheet, comparison, save_front, sheets
from dti_repro.experiments.runner import ExperimentRun, RowResult, means_of
from dti_repro.experiments.search import COLUMNS as SEARCH_COLUMNS
from dti_repro.experiments.search import search
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.statistics import MIN_SUBJECTS
from dti_repro.experiments.tables import (
    Row,
    claims_table,
    compare,
    differences_table,
    markdown,
    means_table,
    numbers_table,
    scores_table,
    write_csv,
)
from dti_repro.experiments.training_columns import COLUMNS, training_columns
from dti_repro.inference.image_folder import PROMPT_KEYS

THUMBNAIL = 160  # px; larger images are shown as thumbnails of this size
MAX_SHEETS = 8  # subjects whose images are shown: a page of all may be hundreds of megabytes
VERDICTS = (
    "holds: the paired 95% t interval over subjects lies wholly on the claimed side, and the sign-flip test gives "
    "p <= .05; does not: both say the opposite; undecided: anything else; too few subjects: fewer than "
    f"{MIN_SUBJECTS}. p (Holm) is corrected over the metrics of one claim; the verdict does not use it."
)
DIFFERENCES = (
    "Over the subjects that both rows have. p is the two-sided sign-flip test's, exact up to 16 subjects, and is "
    "corrected by Holm over this table."
)
NOTES = (
    "`norm` is the norm of the learned vector. `on noise` is the norm that AdamW gives a vector of this start, rate, "
    "decay and number of steps on random gradients: a norm near it says nothing about what was learned.",
    "`gradient` is the median norm of the gradient that the optimizer was given; kappa acts relative to it.",
    "`minutes` is the training time of a subject; subjects are trained in packs.",
    "front.png shows image score against text score, from table.csv. grid.png shows the first subject by name with the "
    "first image seed and all prompts.",
)
# Where a run on one of the paper's models differs from the published code, by the class of the backbone. See
# docs/deviations.md.
_SHARED = (
    "photos are resized with Lanczos and cropped at the centre (there: bicubic, cropped at random)",
    "noise is drawn on the CPU (there: on the GPU)",
)
_VAE = "the autoencoder draws in float32 (there: in bfloat16)"
MASK_DEVIATION = "masks are black or white, cut at 127 (there: the photo is multiplied by the grey value)"
_SIZES = (
    "the model is told the size of the square that it is trained on, without a crop (there: each photo's own size and "
    "the corner of its crop)"
)
DEVIATIONS = {
    "dti_repro.backbones.sdxl.StableDiffusionXL": (
        *_SHARED,
        _SIZES,
        "all frozen weights have `backbone.dtype` (there: CLIP-L in float32, the others in bfloat16)",
        "a word of several vectors stands in a prompt once (there: twice in generation)",
    ),
    "dti_repro.backbones.sana.Sana": (
        *_SHARED,
        _VAE,
        "no prompt is padded (there: DTI's prompts begin with 0 to 15 zero vectors)",
    ),
    "dti_repro.backbones.wan.Wan": (*_SHARED, _VAE),
}


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph (`code` in backticks) and a table."""

    title: str
    text: str
    table: DataFrame


def tabulate(
    folder: Path, run: ExperimentRun, results: Sequence[RowResult], command: str, masked: bool, searched: Path
) -> None:
    """Write all files but provenance.json, from what is on disk. searched: the yaml that a search writes."""
    experiment = run.experiment
    found = search(experiment, results, searched) if experiment.search else {}
    rows = []
    for result in results:
        extras = training_columns(run, result) | found.get(result.spec.name, {})
        scores = means_of(result.score_files, experiment.metrics)
        rows.append(Row(result.spec.name, result.spec.label, scores, extras))
    columns = (*COLUMNS, *(SEARCH_COLUMNS if experiment.search else ()))
    write_report(folder, run, rows, columns, sheets(run, results), command, masked)
    comparison(run, results).save(folder / "grid.png")


def write_report(
    folder: Path,
    run: ExperimentRun,
    rows: Sequence[Row],
    extras: Sequence[str],
    sheets: Sequence[Sheet],
    command: str,
    masked: bool,
) -> None:
    """Write table.md, table.csv, scores.csv, differences.csv, front.png and report.html; equal inputs give equal bytes.

    extras: the heads of the columns after the metrics. command: what makes the table again. masked: whether references
    were black outside of their masks.
    """
    experiment, metrics = run.experiment, run.experiment.metrics
    labels = {row.name: row.label for row in rows}
    backbone = run.generate_config().backbone
    differences = compare(rows, experiment.baselines, list(metrics))
    sections = [Section("", _about(run, backbone, command, masked), means_table(rows, metrics, extras))]
    if experiment.claims:
        verdicts = claims_table(experiment.claims, {row.name: row for row in rows}, metrics)
        sections.append(Section("Claims", VERDICTS, verdicts))
    for baseline in experiment.baselines:
        table = differences_table(differences[differences["minus"] == baseline], labels, metrics)
        sections.append(Section(f"Paired differences from {labels[baseline]}", DIFFERENCES, table))
    deviations = DEVIATIONS.get(backbone._target_, ())
    if backbone.get("sizes") == "as_published":
        deviations = tuple(deviation for deviation in deviations if deviation != _SIZES)
    if deviations and masked:
        deviations = (*deviations, MASK_DEVIATION)
    sources = sorted({row.published.source for row in experiment.rows if row.published})
    notes = [
        *NOTES,
        *(f"Published numbers: {source}." for source in sources),
        *(f"Differs from the published code: {deviation}. See docs/deviations.md." for deviation in deviations),
        *experiment.notes,
    ]
    parts = [f"# {experiment.title}\n"]
    for section in sections:
        parts += [f"## {section.title}\n"] if section.title else []
        parts += [f"{section.text}\n", markdown([section.table.columns, *section.table.values])]
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text("\n".join([*parts, "## Notes\n", *(f"- {note}" for note in notes), ""]), encoding="utf-8")
    write_csv(folder / "table.csv", numbers_table(rows, list(metrics), extras))
    write_csv(folder / "scores.csv", scores_table(rows))
    write_csv(folder / "differences.csv", differences)
    save_front(folder / "front.png", experiment, rows)
    write_page(folder / "report.html", experiment.title, sections, notes, folder / "front.png", sheets, labels)


def _about(run: ExperimentRun, backbone: DictConfig, command: str, masked: bool) -> str:
    """Return what made the table, and what its numbers are means over."""
    rows = [row for row in run.experiment.rows if row.bound is None]
    seeds = sorted({cfg.seed for row in rows for cfg in run.train_configs(row)})
    trained = f"{len(seeds)} training seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}), " if seeds else ""
    reading = {key: " ".join(backbone[key].split()) for key in PROMPT_KEYS if key in backbone}
    prompts = run.prompts()
    return (
        f"Made by `{command}`. {len(run.concepts)} subjects ({', '.join(run.concepts)}), "
        f"{len(prompts.prompts)} prompts (`{prompts.name}`), {trained}{len(run.seeds())} image seeds; "
        f"image scores compare with references {'black outside of their masks' if masked else 'as they are'}. "
        f"{''.join(f'Prompts are read with `backbone.{key}={value}`. ' for key, value in reading.items())}"
        "Cells: mean over subjects ± half of its 95% t interval."
    )


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    front: Path,
    sheets: Sequence[Sheet],
    labels: Mapping[str, str],
) -> None:
    """Write tables, front and images side by side as one HTML file that needs no other; equal inputs give equal bytes.

    Prompts, labels and notes are text and never markup: jinja2 escapes whatever is put in, and the page forbids itself
    scripts and anything from elsewhere. labels: row name -> title. InputError for an image that cannot be read.
    """
    from jinja2 import StrictUndefined, Template

    source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    template = Template(source, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.render(
        title=title,
        sections=sections,
        notes=notes,
        front=_data_url("png", front.read_bytes()),
        sheets=sheets[:MAX_SHEETS],
        left_out=len(sheets[MAX_SHEETS:]),
        labels=labels,
        thumbnail=_thumbnail,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _thumbnail(path: Path) -> tuple[str, bool]:
    """Return an image as a URL, and whether it is small: then it is enlarged by whole pixels, so that nothing is
    invented."""
    image = load_photo(path)
    small = max(image.size) < THUMBNAIL
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=90)
    return _data_url("webp", buffer.getvalue()), small


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def write_provenance(
    folder: Path, experiment: Experiment, results: Sequence[RowResult], clock: Sequence[float], accelerator: str
) -> None:
    """Write how scores.csv was made, unless provenance.json says it already. Its minutes are those of this command,
    without those of its jobs. clock: when training, generation and scoring began, scoring ended, in s."""
    file, scores = folder / "provenance.json", sha256(folder / "scores.csv")
    if file.is_file() and read_json(file, "remove it").get("scores_sha256") == scores:
        return
    from dti_repro.backbones.load import device_of

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()  # "" for an installed package
    seconds = zip(("train", "generate", "score"), map(sub, clock[1:], clock), strict=True)
    folders = {result.spec.name: result.folders for result in results if result.folders}
    scored = [file.provenance for result in results for file in result.score_files]
    content = {
        **provenance(clock[0], device_of(accelerator)),
        "scores_sha256": scores,
        "commit": commit or None,
        "minutes": {stage: round(duration / 60, 2) for stage, duration in seconds},
        "machines": machines([folder for row in folders.values() for folder in row], scored),
        "experiment": asdict(experiment),
        "runs": {name: sorted({str(folder.seed_folder) for folder in row}) for name, row in folders.items()},
        "overrides": {result.spec.name: list(result.spec.overrides) for result in results},
    }
    write_json(file, content)
