"""Write report.html: the template with its style, its scripts and its data inlined.

Prompts, labels and notes are text and never markup: jinja2 escapes what stands in the page, scripts get their data as
JSON without `<`, and put it into the page as text. The page forbids itself every script but its own, which it names by
their hashes, and everything from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import astuple
from math import isfinite
from pathlib import Path
from typing import Any

from pandas import DataFrame

from dti_repro.artifacts.files import read_json, read_yaml, sha256, write_file
from dti_repro.data.photos import load_photo
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.page.pictures import gallery, webp
from dti_repro.experiments.page.training import curves, settings
from dti_repro.experiments.report import Report
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.statistics import Interval

HERE = Path(__file__).parent
VENDORED = ("d3.min.js", "plot.umd.min.js", "tablesort.min.js", "tablesort.number.min.js")
SCRIPTS = ("start.js", "wall.js", "zoom.js", "plane.js", "tables.js")
LAST = "-99999999"  # sorts an empty cell below every number
CLAIM_HEADS = ("claim", "measured by", "verdict", "difference", "95% t", "p (sign flip)", "p (Holm)", "source")
PUBLISHED = ("published image", "published text")
NUMBER = re.compile(r"\[?([+-]?\d*\.?\d+(?:e[+-]?\d+)?)")
Cell = tuple[str, str | None]  # what is shown, and what it is sorted by if it is a number


def write_page(folder: Path, report: Report, run: ExperimentRun, results: Sequence[RowResult]) -> Path:
    """Write <folder>/report.html and return its path; equal inputs give equal bytes. results: the rows whose runs are
    on disk; the others have no pictures and curves. InputError for an image that cannot be read."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    pictures = gallery(run, results, [row.name for row in report.rows])
    grid = folder / "grid.png"
    files = [*(HERE / "vendor" / name for name in VENDORED), *(HERE / name for name in SCRIPTS)]
    scripts = [file.read_text(encoding="utf-8") for file in files]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts]
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {' '.join(hashes)}"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((HERE / "page.html").read_text(encoding="utf-8")).render(
        report=report,
        means=_cells(_with_published_beside(report)),
        claims=report.claims and _cells(report.claims.table[list(CLAIM_HEADS)]),
        compared=[(section, _cells(section.table)) for section in report.compared],
        settings=_cells(settings(report, results)),
        pictures=pictures,
        grid=None if pictures["pictures"] or not grid.is_file() else webp(load_photo(grid)),
        facts=_facts(folder),
        libraries=_libraries(),
        policy=policy,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(_json(_data(report, results, pictures))),
    )
    path = folder / "report.html"
    write_file(path, page)
    return path


def _data(report: Report, results: Sequence[RowResult], pictures: dict[str, Any]) -> dict[str, Any]:
    """Return what the scripts read."""
    experiment = report.experiment
    metrics = list(experiment.metrics)
    bounds = {row.name for row in experiment.rows if row.bound}
    rows = [
        {
            "label": row.label,
            "bound": row.name in bounds,
            "scores": [_point(row.interval(metric)) for metric in metrics],
        }
        for row in report.rows
    ]
    return {
        "rows": rows,
        "metrics": list(experiment.metrics.values()),
        "axes": [metrics.index(experiment.text[0]), metrics.index(experiment.image)],
        "curves": curves(results, [row.name for row in report.rows]),
        **pictures,
    }


def _point(interval: Interval) -> list[float | None] | None:
    """Return mean, bounds and number of subjects, as JSON has no NaN; None of 0 subjects."""
    numbers = [number if isfinite(number) else None for number in astuple(interval)]
    return numbers if interval.n else None


def _json(content: Any) -> str:
    """Return JSON that may stand in a script element: `<`, which could end it, is written as an escape."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _with_published_beside(report: Report) -> DataFrame:
    """Return the table of means with the published numbers right after the metrics."""
    table, metrics = report.means, list(report.experiment.metrics.values())
    published = [head for head in PUBLISHED if head in table and table[head].any()]
    rest = [head for head in report.extras if head not in PUBLISHED and table[head].any()]
    return table[["row", *metrics, *published, *rest]]


def _cells(table: DataFrame) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """Return heads, each with whether its column holds numbers, and lines of cells. A cell that begins with a number is
    sorted by it."""
    heads, columns = [], []
    for head, column in table.items():
        texts = column.map(str)
        found = [NUMBER.match(text) for text in texts]
        number = any(texts) and all(match for text, match in zip(texts, found, strict=True) if text)
        keys = [f"{float(match[1]):.9f}" if match else LAST for match in found]
        heads.append((head, number))
        columns.append(list(zip(texts, keys if number else [None] * len(texts), strict=True)))
    return heads, [list(line) for line in zip(*columns, strict=True)]


def _facts(folder: Path) -> list[tuple[str, str]]:
    """Return what provenance.json says of how these scores were made; nothing if it is about others."""
    file = folder / "provenance.json"
    if not file.is_file():
        return []
    content = read_json(file, "remove it")
    if content.get("scores_sha256") != sha256(folder / "scores.csv"):
        return [("provenance", "provenance.json is about other scores: run the benchmark to write it again")]
    listed = {
        "tabulated": "began",
        "commit": "commit",
        "machines": "machines",
        "minutes of the last command": "minutes",
        "python": "python",
        "platform": "platform",
        "packages": "versions",
    }
    return [(name, _plain(content[key])) for name, key in listed.items() if content.get(key)]


def _libraries() -> list[tuple[str, str, str]]:
    """Return package, version and licence text of what is inlined: whoever gets the page must get these."""
    listed = {entry["package"]: entry for entry in read_yaml(HERE / "vendor" / "versions.yaml").values()}
    return [
        (name, str(entry["version"]), (HERE / "vendor" / entry["text"]).read_text(encoding="utf-8"))
        for name, entry in listed.items()
    ]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
