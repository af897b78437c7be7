"""What is written of the decisions: claims.md, claims.csv, claims.tex, and a figure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from pandas import DataFrame

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.claims.decide import DOES_NOT, HOLDS, MIN_SEEDS, Decision, Finding
from dti_repro.experiments.mechanism.style import COLORS, GREY, panels, save
from dti_repro.experiments.statistics import MIN_SUBJECTS
from dti_repro.experiments.tables import markdown, write_csv

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
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(_markdown(out, decisions, made_by), encoding="utf-8")
    write_csv(paths[1], numbers(decisions))
    with atomic_write(paths[2]) as temporary:
        temporary.write_text(f"% Made by {made_by}\n{_latex(decisions)}", encoding="utf-8")
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
        parts += [[str(number), *_cells(finding), _links(out, finding)] for finding in decision.findings]
    counts = [f"{sum(d.verdict == verdict for d in decisions)} {verdict}" for verdict in _verdicts(decisions)]
    text = f"# Claims\n\nMade by `{made_by}`. {len(decisions)} claims: {', '.join(counts)}.\n\n{RULES}\n\n"
    return f"{text}{markdown(summary)}\n![Differences](claims.png)\n\n{markdown(parts)}"


def _verdicts(decisions: Sequence[Decision]) -> list[str]:
    return list(dict.fromkeys(decision.verdict for decision in decisions))


def _cells(finding: Finding) -> list[str]:
    """Return what is printed of a part; "" for what there is not."""
    d, seeds = finding.difference, finding.evidence.seeds
    verdict = f"{finding.verdict} ({finding.why})" if finding.why else finding.verdict
    head = [finding.part.says, verdict]
    if d is None:
        return [*head, *[""] * 6]
    bounds = f"[{d.t.low:+.3g}, {d.t.high:+.3g}]" if isfinite(d.t.low) else ""
    listed = "none is needed" if seeds is None else ", ".join(map(str, sorted(seeds)))
    smallest = f"{finding.smallest:.3g}" if isfinite(finding.smallest) else ""
    return [*head, f"{d.t.mean:+.3g}", bounds, f"{d.p:.4f}", str(d.t.n), listed, smallest]


def _links(out: Path, finding: Finding) -> str:
    """Return links to the page of each result that was read, or else to the CSV."""
    found = []
    for folder in finding.evidence.folders:
        pages = (folder / name for name in ("table.md", "mechanism.md", finding.part.file))
        page = next(path for path in pages if path.is_file())
        found.append(f"[{folder.name}]({Path(os.path.relpath(page, out)).as_posix()})")
    return ", ".join(found)


def _latex(decisions: Sequence[Decision]) -> str:
    lines = []
    for decision in decisions:
        for k, finding in enumerate(decision.findings):
            _, _, mean, bounds, _, n, _, smallest = _cells(finding)
            seeds = finding.evidence.seeds
            claim = [decision.rule.says, decision.verdict] if k == 0 else ["", ""]
            lines.append(
                [*claim, finding.part.says, mean, bounds, n, "" if seeds is None else str(len(seeds)), smallest]
            )
    heads = ["claim", "verdict", "part", "difference", "95% t", "n", "seeds", "smallest"]
    style = DataFrame(lines, columns=heads).style.hide(axis="index")
    style = style.format(escape="latex").format_index(escape="latex", axis=1)
    return style.to_latex(hrules=True, column_format="p{4.5cm}lp{4.5cm}rlrrr")


def draw(decisions: Sequence[Decision]) -> Figure:
    """Return the differences with their intervals, each in units of its own smallest difference."""
    shown = list(_shown(decisions))
    figure, ((axes,),) = panels([""], title="Claims: differences, 95% intervals", width=8.5)
    figure.set_figheight(1.4 + 0.32 * len(shown))
    for k, (_, finding) in enumerate(shown):
        t, unit = finding.difference.t, finding.smallest
        color = {HOLDS: COLORS[0], DOES_NOT: COLORS[1]}.get(finding.verdict, GREY)
        mark = {HOLDS: "o", DOES_NOT: "X"}.get(finding.verdict, "D")
        axes.errorbar(t.mean / unit, k, xerr=t.half_width / unit, fmt=mark, color=color, capsize=2, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [f"{number}  {finding.part.says}" for number, finding in shown], fontsize=8)
    axes.set_xscale("symlog", linthresh=3)
    axes.set_xticks(PLACES, list(map(str, PLACES)))
    axes.set_xlim(*(sign * max(4, *(abs(bound) for bound in axes.get_xlim())) for sign in (-1, 1)))
    axes.set_xlabel("difference / smallest difference of power .8\ncircle: holds, cross: does not, diamond: undecided")
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    return figure


def _shown(decisions: Sequence[Decision]) -> Iterator[tuple[int, Finding]]:
    """Yield the number of the claim and the part, of those that have a spread."""
    for number, decision in enumerate(decisions, 1):
        for finding in decision.findings:
            if finding.difference is not None and isfinite(finding.smallest) and finding.smallest > 0:
                yield number, finding
