"""The verdict on each claim, by the rule of `statistics.verdict` and at least three training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dti_repro.experiments.claims.evidence import Evidence, read_evidence
from dti_repro.experiments.claims.rules import Part, Rule
from dti_repro.experiments.statistics import MIN_SUBJECTS, Paired, minimum_detectable_difference, paired, verdict

MIN_SEEDS = 3  # training seeds that a verdict needs
HOLDS, DOES_NOT, UNDECIDED, NOT_MEASURED = "holds", "does not", "undecided", "not measured"


@dataclass(frozen=True)
class Finding:
    """What the results say of a part. smallest: the difference that so many units show with a power of .8, NaN for
    fewer than two, and where all units have the same difference. why: what the verdict lacks."""

    part: Part
    evidence: Evidence
    verdict: str
    difference: Paired | None = None
    smallest: float = float("nan")
    why: str = ""


@dataclass(frozen=True)
class Decision:
    """A claim, its verdict, and what the results say of each of its parts."""

    rule: Rule
    verdict: str
    findings: tuple[Finding, ...]


def decide(rules: Sequence[Rule], root: Path) -> list[Decision]:
    """Return a decision on each claim. root: the folder of all results."""
    decisions = []
    for rule in rules:
        findings = tuple(_judge(part, read_evidence(part, root)) for part in rule.parts)
        decisions.append(Decision(rule, claim_verdict([finding.verdict for finding in findings]), findings))
    return decisions


def claim_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim: it holds if all parts hold, and does not if one part does not."""
    if DOES_NOT in verdicts:
        return DOES_NOT
    return verdicts[0] if len(set(verdicts)) == 1 else UNDECIDED


def _judge(part: Part, evidence: Evidence) -> Finding:
    values = evidence.differences.tolist()
    if not values:
        return Finding(part, evidence, NOT_MEASURED, why=evidence.reason)
    difference = paired(values, [0.0] * len(values))
    found, why = verdict(difference), ""
    if len(values) < MIN_SUBJECTS:
        found, why = UNDECIDED, f"{len(values)} units, {MIN_SUBJECTS} are needed"
    elif evidence.seeds is not None and len(evidence.seeds) < MIN_SEEDS:
        plural = "" if len(evidence.seeds) == 1 else "s"
        found, why = UNDECIDED, f"{len(evidence.seeds)} training seed{plural}, {MIN_SEEDS} are needed"
    return Finding(part, evidence, found, difference, minimum_detectable_difference(values), why)
