"""Decide the paper's claims from results that are there, by rules that were written before them.

Nothing is trained, drawn or scored. A claim whose results are missing is "not measured".
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dti_repro.artifacts.files import user_path
from dti_repro.errors import InputError
from dti_repro.experiments.claims.rules import PACKAGED, read_rules
from dti_repro.launch.command import command
from dti_repro.launch.command_line import running_command


def claims(cfg: DictConfig, made_by: str) -> list[Path]:
    """Write the verdicts and return the files. made_by: the command that they name. InputError for wrong rules, and for
    a folder without results."""
    rules = read_rules(PACKAGED if cfg.rules is None else user_path(cfg.rules))
    results = Path(cfg.results)
    if not results.is_dir():
        raise InputError(f"results={cfg.results} is no folder: give the one that the benchmarks wrote to")
    from dti_repro.experiments.claims.decide import decide  # scipy and pandas load with these
    from dti_repro.experiments.claims.page import write_claims

    decisions = decide(rules, results)
    paths = write_claims(Path(cfg.out), decisions, made_by)
    for number, decision in enumerate(decisions, 1):
        print(f"{number:>2}  {decision.verdict:<13} {decision.rule.says}")
    print("\n".join(map(str, paths)))
    return paths


@command("claims")
def main(cfg: DictConfig) -> None:
    claims(cfg, running_command("claims", "out", "results"))


if __name__ == "__main__":
    main()
