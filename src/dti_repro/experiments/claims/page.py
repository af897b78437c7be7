"""What is written of the decisions: claims.md, claims.csv, claims.tex, and a figure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from pandas import DataFrame

from dti_repro.artifacts.files import write_file
from dti_repro.experiments.claims.decide import DOES_NOT, HOLDS, MIN_SEEDS, Decision, Finding
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.statistics import MIN_SUBJECTS
from dti_repro.experiments.style import COLORS, GREY, panels, save
from dti_repro.experiments.tables import latex, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RULES = (
    "A part holds if the paired 95% t interval lies wholly above 0, the sign-flip test gives p <= .05, and there are "
    f"at least {MIN_SUBJECTS} units and {MIN_SEEDS} training seeds. It does not if both tests say the opposite. A "
    "claim holds if all of its parts hold, and does not if one does not. Anything else is undecided. The unit is the "
    "subject, whose training seeds are averaged; claims about the text encoder alone need no training, and their unit "
    "is the word or the probe. `smallest` is the difference that so many units, which spread as these do, show with a "
    "power of .8."
)
PLACES = (-30, -10, -3, -2, -1, 0, 1, 2, 3, 10, 30)  # of marks on the figure's axis
COLUMNS = ("claim", "verdict", "part", "part_verdict", "difference", "low", "high", "p", "units", "seeds", "smallest")


def write_claims(out: Path, decisions: Sequence[Decision], made_by: str) -> list[Path]:
    """Write <out>/claims.md, .csv, .tex, and a figure as .png and .pdf, and return their paths; equal results give
    equal bytes."""
    paths = [out / f"claims{suffix}" for suffix in (".md", ".csv", ".tex")]
    write_file(paths[0], _markdown(out, decisions, made_by))
    write_csv(paths[1], numbers(decisions))
    write_file(paths[2], _latex(decisions, made_by))
    save(draw(decisions), out / "claims")
    return paths


def numbers(decisions: Sequence[Decision]) -> DataFrame:
    """Return a line for each part of a claim, for programs and for the figure."""
    lines = []
    for decision in decisions:
        for finding in decision.findings:
            d = finding.difference
            cells = [d.t.mean, d.t.low, d.t.high, d.p, d.t.n] if d else [None] * 4 + [0]
            head = [decision.rule.name, decision.verdict, finding.part.says, finding.verdict]
            seeds = finding.evidence.seeds
            lines.append([*head, *cells, "" if seeds is None else len(seeds), finding.smallest])
    return DataFrame(lines, columns=COLUMNS)


def _markdown(out: Path, decisions: Sequence[Decision], made_by: str) -> str:
    summary = [["", "claim", "source", "verdict"]]
    parts = [["", "part", "verdict", "difference", "95% t", "p", "units", "training seeds", "smallest", "from"]]
    for number, decision in enumerate(decisions, 1):
        summary.append([str(number), decision.rule.says, decision.rule.source, f"**{decision.verdict}**"])
        for finding in decision.findings:
            verdict = f"{finding.verdict} ({finding.why})" if finding.why else finding.verdict
            mean, bounds, p, units, smallest = _cells(finding)
            listed = ", ".join(map(str, sorted(finding.evidence.seeds or ())))
            seeds = "none is needed" if units and finding.evidence.seeds is None else listed
            cells = [mean, bounds, p, units, seeds, smallest]
            parts.append([str(number), finding.part.says, verdict, *cells, _links(out, finding)])
    counts = Counter(decision.verdict for decision in decisions)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    text = f"# Claims\n\nMade by `{made_by}`. {len(decisions)} claims: {counted}.\n\n{RULES}\n\n"
    return f"{text}{markdown(summary)}\n![Differences](claims.png)\n\n{markdown(parts)}"


def _cells(finding: Finding) -> list[str]:
    """Return difference, interval, p, units and smallest difference as they are printed; "" for what there is not."""
    d = finding.difference
    if d is None:
        return [""] * 5
    bounds = f"[{d.t.low:+.3g}, {d.t.high:+.3g}]" if isfinite(d.t.low) else ""
    smallest = f"{finding.smallest:.3g}" if isfinite(finding.smallest) else ""
    return [f"{d.t.mean:+.3g}", bounds, f"{d.p:.4f}", str(d.t.n), smallest]


def _links(out: Path, finding: Finding) -> str:
    """Return links to the page of each result that was read, or else to the CSV."""
    found = []
    for folder in finding.evidence.folders:
        pages = (folder / name for name in ("table.md", "mechanism.md", finding.part.file))
        page = next(path for path in pages if path.is_file())
        found.append(f"[{folder.name}]({Path(os.path.relpath(page, out)).as_posix()})")
    return ", ".join(found)


def _latex(decisions: Sequence[Decision], made_by: str) -> str:
    lines = []
    for decision in decisions:
        claim = [decision.rule.says, decision.verdict]
        for finding in decision.findings:
            mean, bounds, _, units, smallest = _cells(finding)
            seeds = finding.evidence.seeds
            trained = "" if seeds is None else str(len(seeds))
            lines.append([*claim, finding.part.says, mean, bounds, units, trained, smallest])
            claim = ["", ""]
    heads = ["claim", "verdict", "part", "difference", "95% t", "n", "seeds", "smallest"]
    return latex(DataFrame(lines, columns=heads), "p{4.5cm}lp{4.5cm}rlrrr", made_by)


def draw(decisions: Sequence[Decision]) -> Figure:
    """Return the differences with their intervals, each in units of its own smallest difference, of the parts that have
    a spread. The others are named below the axis."""
    parts = [(number, finding) for number, decision in enumerate(decisions, 1) for finding in decision.findings]
    shown = [(number, finding) for number, finding in parts if isfinite(finding.smallest)]
    others = dict.fromkeys(str(number) for number, finding in parts if not isfinite(finding.smallest))
    looks = {HOLDS: ("o", COLORS[0]), DOES_NOT: ("X", COLORS[1])}
    figure, ((axes,),) = panels([""], title="Claims: differences, 95% intervals", width=8.5)
    figure.set_figheight(1.4 + 0.32 * len(shown))
    for k, (_, finding) in enumerate(shown):
        t, unit = finding.difference.t, finding.smallest
        mark, color = looks.get(finding.verdict, ("D", GREY))
        axes.errorbar(t.mean / unit, k, xerr=t.half_width / unit, fmt=mark, color=color, capsize=2, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [f"{number}  {finding.part.says}" for number, finding in shown], fontsize=8)
    axes.set_xscale("symlog", linthresh=3)
    axes.set_xticks(PLACES, list(map(str, PLACES)))
    axes.set_xlim(*(sign * max(4, *(abs(bound) for bound in axes.get_xlim())) for sign in (-1, 1)))
    label = "difference / smallest difference of power .8\ncircle: holds, cross: does not, diamond: undecided"
    axes.set_xlabel(
        f"{label}\nnot measured, or without a spread: a part of claim {', '.join(others)}" if others else label
    )
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    return figure
