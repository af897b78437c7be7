"""What a yaml of claims says. Imports no torch and no pandas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dti_repro.artifacts.files import read_yaml
from dti_repro.artifacts.run_dir import check_name
from dti_repro.config.values import STRICT
from dti_repro.errors import InputError

PACKAGED = Path(__file__).with_name("claims.yaml")
KEYS = ConfigDict(**STRICT, extra="forbid")
Texts = Annotated[tuple[str, ...], Field(min_length=1)]
Filter = Mapping[str, str]  # column of a CSV -> its value in the chosen lines


@dataclass(frozen=True, kw_only=True, config=KEYS)
class Part:
    """An ordering that is tested: `more` is greater than `times` the `less`, unit by unit.

    results: folders of results. unit: the columns that name a unit; two columns name a pair, and the subject is the
    unit. value: the column that is averaged. among: it counts 1 where it has one of these values, else 0. without:
    lines that are left out. trained: whether the numbers rest on training seeds.
    """

    says: str
    results: Texts
    more: Filter
    less: Filter
    times: PositiveFloat = 1.0
    file: Annotated[str, Field(pattern=r"^\w+\.csv$")] = "scores.csv"
    unit: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("concept",)
    value: str = "mean"
    among: tuple[str, ...] = ()
    without: Filter = Field(default_factory=dict)
    trained: bool = True


@dataclass(frozen=True, kw_only=True, config=KEYS)
class Rule:
    """A claim: it holds if all of its parts hold. source: who claims it, and where."""

    name: str
    says: str
    source: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]


@dataclass(frozen=True, config=KEYS)
class _Rules:
    claims: Annotated[tuple[Rule, ...], Field(min_length=1)]


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Return the claims of a yaml. InputError that names the file and the key."""
    try:
        rules = TypeAdapter(_Rules).validate_json(json.dumps(read_yaml(path))).claims
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for rule in rules:
        for folder in (name for part in rule.parts for name in part.results):
            check_name(folder, f"{path}: results of {rule.name}")
    return rules
