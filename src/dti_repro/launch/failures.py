"""What a user sees of an error: one line, and the exit code 2 for bad input, 1 for a failure of a good run, 130 for
Ctrl-C. A fault of the program has neither, and keeps its traceback. No torch here."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from dti_repro.config import CONF
from dti_repro.config.plugins import choices
from dti_repro.errors import (
    DivergedError,
    InputError,
    OutOfMemoryError,
    ProcessDiedError,
    StoppedError,
    is_out_of_memory,
    one_line,
)
from dti_repro.launch.command_line import CommandLine

STOPPED = "stopped: what is finished is kept, and the same command goes on from here"
LAUNCHERS = ("submitit.", "joblib.")  # libraries whose errors say that the process of a job has died
NOT_INSTALLED = ("joblib", "submitit_slurm", "submitit_local")
SMALLER = {
    "train": "trainer.batch or trainer.pack, set trainer.precision=bf16 or backbone.checkpointing=true",
    "generate": "batch, or height and width",
    "interpolate": "batch, or height and width",
    "benchmark": "train=[trainer.batch=...,trainer.pack=...] or generate=[batch=...]",
    "demo": "train=[trainer.batch=...] or generate=[batch=...]",
}


class Failure(BaseException):
    """The end of a command as the user sees it. It is no Exception, so that Hydra adds no lines of its own."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line, code)
        self.line, self.code = one_line(line), code


def failure_of(error: BaseException, config_name: str, arguments: Sequence[str]) -> Failure | None:
    """Return the line and the exit code of an error, or None for a fault of the program."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, KeyboardInterrupt | StoppedError):
        return Failure(str(error) or STOPPED, 130)
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):  # Lightning's Ctrl-C
        return Failure(STOPPED, 130)
    if isinstance(error, InputError):
        return Failure(str(error), 2)
    if isinstance(error, DivergedError | ProcessDiedError | OutOfMemoryError):
        return Failure(str(error), 1)
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError) or _raised_by_hydra(error):
        return Failure(explain(error, config_name, arguments), 2)
    if type(error).__module__.startswith(LAUNCHERS):
        reason = " ".join(str(error).splitlines()[:2])  # the job's log follows, which is also a file
        return Failure(f"a job did not get to its end: {reason}", 2 if reason.startswith("sbatch") else 1)
    # A file that is missing is usually a fault of the program.
    if isinstance(error, OSError) and error.filename and error.errno != errno.ENOENT:
        return Failure(f"{error.filename}: {error.strerror}", 2)
    if is_out_of_memory(error):
        reason, smaller = str(error).partition("\n")[0][:200], SMALLER.get(config_name, "what is computed at once")
        return Failure(f"out of memory{reason and f' ({reason})'}: reduce {smaller}; what is finished is kept", 1)
    return None


def _raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf refused something with one of Python's own errors."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = isinstance(error, ValueError | TypeError | AssertionError)
    return ours and bool(frames) and frames[-1].startswith(("hydra.", "omegaconf."))


def explain(error: BaseException, config_name: str, arguments: Sequence[str]) -> str:
    """Return Hydra's error as one line that names the key, and what it could have been."""
    text = " ".join(str(error).split())
    quoted = re.search(r"'([^']+)'", text)
    name = quoted[1] if quoted else ""
    if isinstance(error, MissingMandatoryValue):
        return _missing(error.full_key or text.rpartition(": ")[2], config_name)
    if text.startswith("You must specify"):
        group = name.partition("@")[0]
        return f"{_missing(name, config_name)} (choices: {', '.join(choices(group))})"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and choice in NOT_INSTALLED:
            return f"hydra/launcher: {choice} is not installed: pip install -e '.[cluster]'"
        options = error.options or ()
        return f"unknown {group} '{choice}'{did_you_mean(choice, options)} (choices: {', '.join(options)})"
    if text.startswith("Could not override") and (options := choices(name)):
        return f"{name}: the name of a choice is needed (choices: {', '.join(options)})"
    if text.startswith("Could not override"):
        return _unknown_key(name, CommandLine.parse(config_name, arguments)) or text
    return f"{text}: {' '.join(str(error.__cause__).split())}" if error.__cause__ else text


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ": did you mean 'x'?" with the word that is most alike, or an empty string."""
    alike = difflib.get_close_matches(word, list(words), n=1, cutoff=0.75)
    return f": did you mean '{alike[0]}'?" if alike else ""


def _missing(key: str, config_name: str) -> str:
    """Ask for a value, with the first example of the command's yaml."""
    text = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8")
    example = re.search(r"^# (?:.*: )?(python -m .*?)(?:  |$)", text, re.MULTILINE)
    return f"{key}: a value is needed" + (f", e.g. {example[1]}" if example else "")


def _unknown_key(key: str, line: CommandLine) -> str | None:
    """Say which choice of a job lacks the key, and which keys it has. Values are left out of the composition."""
    group, parent = key.partition(".")[0], key.rpartition(".")[0]
    for job in line.group_choices():
        cfg = line.compose(job)
        if OmegaConf.select(cfg, key, throw_on_missing=False) is None:
            choice = cfg.hydra.runtime.choices.get(group) if parent else None
            keys = [*leaves(OmegaConf.to_container(cfg)), *map(str, cfg)]
            near = [[name for name in keys if name.startswith(f"{place}.")] for place in (parent, group)]
            shown = near[0] or near[1] or [str(name) for name in cfg if name != "hydra"]
            alike = did_you_mean(key, keys) or f" (its keys: {', '.join(shown)})"
            return f"{group} '{choice}' has no key '{key}'{alike}" if choice else f"unknown key '{key}'{alike}"
    return None


def leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a configuration without `_target_`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        elif key != "_target_":
            found[f"{prefix}{key}"] = value
    return found
