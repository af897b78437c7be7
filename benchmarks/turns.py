"""Two ways to the same thing, timed in turns, so that whatever else the machine does slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """What something took, of one unit."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> Seconds:
        """Return what both clocks show."""
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, before: Seconds) -> Seconds:
        return Seconds(self.cpu - before.cpu, self.wall - before.wall)

    def __truediv__(self, units: int) -> Seconds:
        return Seconds(self.cpu / units, self.wall / units)


@dataclass(frozen=True)
class Pair:
    """Two ways to the same thing and what a unit took, one entry a turn."""

    what: str
    first: list[Seconds]
    second: list[Seconds]

    def ratios(self, of: str) -> list[float]:
        return [getattr(a, of) / getattr(b, of) for a, b in zip(self.first, self.second, strict=True)]


Measure = Callable[[], Seconds]


def measure(what: str, first: Measure, second: Measure, repeats: int) -> Pair:
    """Measure turn by turn, every other turn the second way first; one turn of each before it counts."""
    first(), second()
    pair = Pair(what, [], [])
    for number in range(repeats):
        sides = [(pair.first, first), (pair.second, second)]
        for found, action in reversed(sides) if number % 2 else sides:
            found.append(action())
    print(f"{what}: {statistics.median(pair.ratios('cpu')):.2f}x", flush=True)
    return pair


def seconds(action: Callable[[], object], units: int = 1) -> Seconds:
    """Return what a unit of this many takes."""
    began = Seconds.now()
    action()
    return (Seconds.now() - began) / units


def rows_of(pairs: Sequence[Pair]) -> list[list[str]]:
    """Return the lines of the table, its head first."""
    rows = [["what: a / b", "a, CPU s", "b, CPU s", "a / b, CPU s", "least to most", "a / b, wall s"]]
    for pair in pairs:
        cpu = [f"{statistics.median(second.cpu for second in side):.3g}" for side in (pair.first, pair.second)]
        ratios = pair.ratios("cpu")
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        wall = f"{statistics.median(pair.ratios('wall')):.2f}"
        rows.append([pair.what, *cpu, f"{statistics.median(ratios):.2f}", spread, wall])
    return rows
