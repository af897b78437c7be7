"""Kill commands at random moments, start each again as it was, and compare the bytes with those of commands left alone.

A round is train, generate, evaluate and benchmark in one folder, each killed up to `kills_each` times and then left to
end. After a round its folder is compared and thrown away, and the next begins, until as many were killed as asked for.
Exit code 1 at the first difference; its folder is then kept and named.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf


def run(name: str, arguments: Sequence[str], runs: Path, seconds: float | None = None) -> bool:
    """Run a command, and return whether it came to its end: after so many seconds it is killed."""
    trained = next(runs.glob("*/*/*/config.yaml"), runs / "none").parent  # the first command's; there is no other yet
    filled = [argument.replace("{runs}", str(runs)).replace("{run}", str(trained)) for argument in arguments]
    command = [sys.executable, "-m", f"dti_repro.{name}", *filled]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode != 0:
        sys.exit(f"{name} failed by itself:\n{done.stderr.decode()}")
    return True


def content(runs: Path, leave_out: Sequence[str]) -> dict[str, bytes]:
    files = (path for path in runs.rglob("*") if path.is_file() and not any(path.match(p) for p in leave_out))
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in files}


@hydra.main(version_base="1.3", config_path=".", config_name="soak")
def main(cfg: DictConfig) -> None:
    moments, commands = random.Random(cfg.seed), OmegaConf.to_container(cfg.commands)
    root = Path(tempfile.mkdtemp(prefix="dti-soak-"))
    alone, runs = root / "alone", root / "killed"
    seconds = {}
    for name, arguments in commands.items():
        began = time.monotonic()
        run(name, arguments, alone)
        seconds[name] = time.monotonic() - began
    expected = content(alone, cfg.not_compared)
    print(f"left alone: {', '.join(f'{n} {s:.1f} s' for n, s in seconds.items())}, {len(expected)} files", flush=True)
    kills: Counter[str] = Counter()
    rounds = 0
    began = time.monotonic()
    while kills.total() < cfg.kills:
        for name, arguments in commands.items():
            for attempt in range(min(cfg.kills_each, cfg.kills - kills.total())):
                begun = time.monotonic()
                if run(name, arguments, runs, moments.uniform(0, seconds[name])):
                    if attempt == 0:  # from nothing to its end: the machine has become faster
                        seconds[name] = time.monotonic() - begun
                    break
                kills[name] += 1
            run(name, arguments, runs)
        found = content(runs, cfg.not_compared)
        if wrong := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
            sys.exit(f"after {kills.total()} kills these differ from what was left alone: {', '.join(wrong)} ({root})")
        rounds += 1
        print(f"killed {kills.total()}/{cfg.kills}, {rounds} rounds, all the same bytes", flush=True)
        shutil.rmtree(runs)
    shutil.rmtree(root)
    each = ", ".join(f"{name} {count}" for name, count in kills.items())
    print(f"{kills.total()} kills ({each}), {rounds} rounds, {time.monotonic() - began:.0f} s: all the same bytes")


if __name__ == "__main__":
    main()
