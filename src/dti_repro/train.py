"""Train the token vectors of concepts, and an adapter where one is chosen."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import embedding_files
from dti_repro.config import build
from dti_repro.data.concept import ConceptSet
from dti_repro.errors import InputError
from dti_repro.launch.command import command
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.sweep import as_choices
from dti_repro.training.train_missing import train_missing

PER_JOB = "concepts.per_job"


def divide_concepts(line: CommandLine) -> list[CommandLine]:
    """Replace `concepts.per_job=2` by a sweep over the chosen concepts, two in each job. InputError without -m."""
    count = line.value(PER_JOB)
    if count is None:
        return [line]
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"{PER_JOB}={count}: a whole number above 0 is needed")
    if not line.multirun:
        raise InputError(f"{PER_JOB}={count} divides the concepts among the jobs of a sweep: add -m")
    line = line.without(PER_JOB)
    cfg = line.compose([override for override in line.overrides if override.lstrip("+").startswith("concepts")])
    names = [concept.name for concept in build(cfg.concepts, ConceptSet).load()]
    packs = [names[k : k + int(count)] for k in range(0, len(names), int(count))]
    return [line.without("concepts.names").adding(f"concepts.names={as_choices(packs)}")]


@command("train", divide_concepts)
def main(cfg: DictConfig) -> int:
    folders, trained = train_missing(cfg)
    for folder in folders:
        for file in embedding_files(folder.embedding).values():
            print(file)
    return trained


if __name__ == "__main__":
    main()
