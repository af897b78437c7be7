"""Kill a training at random moments, start it again with the same command, and compare bytes with one left alone.

Whenever a training gets to its end it is compared, its folder is thrown away and the next one begins, until it was
killed as often as asked for. Exit code 1 at the first difference; its folder is then kept and named.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

NOT_COMPARED = {"provenance.json", "lock"}  # times and process ids, which may differ


def start(command: list[str], runs: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dti_repro.train", *command, f"runs={runs}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def content(runs: Path) -> dict[str, bytes]:
    files = (path for path in runs.rglob("*") if path.is_file() and path.name not in NOT_COMPARED)
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in files}


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"the training failed by itself:\n{errors.decode()}")


def differences(runs: Path, expected: dict[str, bytes]) -> list[str]:
    found = content(runs)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


@hydra.main(version_base="1.3", config_path=".", config_name="soak")
def main(cfg: DictConfig) -> None:
    moments, command = random.Random(cfg.seed), list(cfg.command)
    root = Path(tempfile.mkdtemp(prefix="dti-soak-"))
    began = time.monotonic()
    finish(start(command, root / "alone"))
    seconds, expected = time.monotonic() - began, content(root / "alone")
    print(f"left alone: {seconds:.1f} s, {len(expected)} files")
    kills = compared = 0
    runs = root / "killed"
    while kills < cfg.kills or runs.exists():
        process = start(command, runs)
        if kills < cfg.kills:
            try:
                process.wait(timeout=moments.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                print(f"killed {kills}/{cfg.kills}", flush=True)
                continue
        finish(process)
        if wrong := differences(runs, expected):
            sys.exit(f"after {kills} kills these differ from the training left alone: {', '.join(wrong)} ({root})")
        compared += 1
        shutil.rmtree(runs)
    shutil.rmtree(root)
    print(f"{kills} kills, {compared} trainings to their end, all the same bytes")


if __name__ == "__main__":
    main()
