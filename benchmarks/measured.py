"""What a benchmark writes: a table as <name>.csv and, with what it means and where it was measured, as <name>.md."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from dti_repro.artifacts.files import atomic_write, write_file
from dti_repro.experiments.markdown import markdown

HERE = Path(__file__).parent


def write_result(
    folder: Path,
    name: str,
    title: str,
    about: str,
    rows: Sequence[Sequence[str]],
    libraries: Sequence[str],
    more: Sequence[str] = (),
) -> None:
    """Write the table of `rows`, its head first. about: the command and what the numbers are. libraries: distributions
    whose versions are named. more: lines after the table."""
    versions = ", ".join(f"{library} {version(library)}" for library in libraries)
    machine = f"{processor()}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {versions}"
    measured = f"{machine}; load average at the end {os.getloadavg()[0]:.1f}. Measured at commit {commit(HERE)}."
    with atomic_write(folder / f"{name}.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    lines = [f"# {title}", "", about, "", measured, "", markdown(rows), *more]
    write_file(folder / f"{name}.md", "\n".join(lines))


@cache
def commit(folder: Path) -> str:
    """Return the commit of the checkout that a folder is in, with -dirty where files differed from it at the first
    call: a result that is written step by step makes them differ."""
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
