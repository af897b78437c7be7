"""Whoever copies a command from README or docs/ gets what the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S+)? ?(\w+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"weights", "cluster", "plugin"}
"""Second words of a fence whose commands cannot run here: they are only composed."""
COMMAND = re.compile(r"(?:dti |python -m dti_repro\.)(\w+(?:\.\w+)*)(.*)", re.DOTALL)


def fences(page: Path) -> list[tuple[str, str, str]]:
    """Return (language, need, text) of each fence of a page."""
    return [(m[1] or "", m[2] or "", m[3]) for m in FENCE.finditer(page.read_text())]


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a fence, each on one line, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if command := re.split(r"\s{2,}#", line)[0].strip():
            yield command


def shorter() -> dict[str, str]:
    """Return command -> what to add, from the table in docs/faq.md."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", (ROOT / "docs/faq.md").read_text(), flags=re.MULTILINE)
    assert rows
    return dict(rows)


def bash(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a line of bash and return what it prints. An assignment is kept in the environment."""
    name = command.partition("=")[0]
    script = f"set -euo pipefail\n{command}\n" + (f'printf %s "${name}"' if re.fullmatch(r"[A-Z]+", name) else "")
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    if re.fullmatch(r"[A-Z]+", name):
        environment[name] = done.stdout
    return done.stdout


def run(command: str, folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page, made short; commands of the package run in this process, where torch is loaded."""
    found = COMMAND.match(command)
    if found is None:
        if command == "make test" or command.startswith(". .venv"):
            return
        if command.startswith("make "):
            line = f"{command} {shorter()[command]}".replace("<folder>", str(folder / "made"))
            command = line.replace("make ", f"make -C {ROOT} ", 1)
        bash(command, folder, environment)
        return
    expanded = bash(f"printf '%s\\0' {found[2]}", folder, environment).split("\0")[:-1] if found[2].strip() else []
    arguments = [*expanded, *shlex.split(shorter().get(found[1], ""))] if "--cfg" not in command else expanded
    monkeypatch.setattr(sys, "argv", [found[1], *arguments])
    try:
        import_module(f"dti_repro.{found[1]}").main()
    except SystemExit as end:
        if end.code:
            pytest.fail(f"exit code {end.code}: {command}")


SLOW = ("benchmark", "cluster")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else (), id=page.stem) for page in PAGES],
)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    monkeypatch.chdir(tmp_path)
    for language, need, text in fences(page):
        if need:
            continue
        if language == "bash":
            for command in commands(text):
                run(command, tmp_path, environment, monkeypatch)
        elif language == "python":
            for key, name in (("trainer.steps", "train"), ("steps", "generate")):
                text = re.sub(rf'"{key}=\d+"', ", ".join(map(repr, shorter()[name].split())), text)
            exec(compile(text, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_points_at_files_that_exist_and_says_what_its_fences_need(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).is_file(), target
    for language, need, text in fences(page):
        assert language in {"bash", "python", "text", "yaml"}
        assert not need or need in NEEDS
        assert language != "text" or not any(map(COMMAND.match, commands(text)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_need_weights_or_a_cluster_are_understood(page: Path) -> None:
    """They compose with the configurations of this project: no key and no choice is misspelled."""
    from dti_repro.launch.command_line import CommandLine

    for language, need, text in fences(page):
        for command in commands(text) if language == "bash" and need in ("weights", "cluster") else ():
            if found := COMMAND.match(command):
                if found[1] == "download":  # takes a name, not overrides
                    continue
                filled = re.sub(r"<\w+>", "x", found[2])  # <run>, <checkpoint>, <hash>
                line = CommandLine.parse(found[1].replace(".", "_"), shlex.split(filled)).without("concepts.per_job")
                parsed = OverridesParser.create().parse_overrides(list(line.overrides))
                line.compose(BasicSweeper.split_arguments(parsed, None)[0][0])  # the first job of a sweep


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700
