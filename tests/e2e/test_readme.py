"""Whoever copies the README's commands gets what it says: they run here as written, made short by its own table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dti_repro.backbones.checkpoint import PACKAGED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shortenings() -> dict[str, str]:
    """command -> what to add, from the README's own table."""
    section = README.split("## Shrinking a command")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", section, flags=re.MULTILINE))


def shortened(line: str, folder: Path) -> str:
    """A line of a bash fence with what makes it short; `make test` alone is left out, as it would start this test."""
    line = line.split("   #")[0].rstrip()
    add = shortenings()
    if line == "make test":
        return ""
    if line.startswith("make "):
        return f"make -C {ROOT} {line.removeprefix('make ')} {add[line]}".replace("<folder>", str(folder))
    command = re.match(r"python -m dti_repro\.(\w+)", line)
    return f"{line} {add[command[1]]}" if command else line


def test_the_shortening_table_is_about_commands_of_the_readme() -> None:
    lines = "\n".join(fences("bash"))
    for command in shortenings():
        assert command in lines or f"dti_repro.{command} " in lines, command


def test_the_readme_points_at_files_that_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).is_file(), target


@pytest.mark.skipif(not PACKAGED.is_dir(), reason="the toybox's weights are not there")
def test_the_commands_run(tmp_path: Path) -> None:
    lines = [shortened(line, tmp_path / "made") for fence in fences("bash") for line in fence.splitlines()]
    steps = ["set -euo pipefail", *lines, *(f"python - <<'END'\n{fence}END" for fence in fences("python"))]
    script = tmp_path / "readme.sh"
    script.write_text("\n".join(steps))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-x", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "bird.png").is_file()
    assert list((tmp_path / "made").glob("demo_grid.png"))
    assert list(tmp_path.glob("runs/toybox/interpolate/*/grid_*.png"))
    assert list(tmp_path.glob("runs/toybox/dti/*/seed_42/bird/scores/*.csv"))
