"""Say what went wrong in one line and with an exit code: 2 for bad input, 1 for what happened in a good run. A fault of
the program itself has neither, and keeps its traceback. No torch here."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from dti_repro.config import CONF
from dti_repro.errors import DivergedError, InputError, OutOfMemoryError, ProcessDiedError, is_out_of_memory
from dti_repro.launch.command_line import CommandLine

STOPPED = "stopped: what is finished is kept, and the same command goes on from here"
SMALLER = {
    "train": "trainer.batch or trainer.pack, set trainer.precision=bf16 or backbone.checkpointing=true",
    "generate": "batch, or height and width",
    "interpolate": "batch, or height and width",
    "benchmark": "train=[trainer.batch=...,trainer.pack=...] or generate=[batch=...]",
    "demo": "train=[trainer.batch=...] or generate=[batch=...]",
}


@dataclass(frozen=True)
class Failure:
    line: str
    code: int


def failure_of(error: BaseException, config_name: str, arguments: Sequence[str]) -> Failure | None:
    """Return the line and the exit code of an error; None for a fault of the program."""
    if isinstance(error, InputError):
        return Failure(str(error), 2)
    if isinstance(error, DivergedError | ProcessDiedError | OutOfMemoryError):
        return Failure(str(error), 1)
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError) or _raised_by_hydra(error):
        return Failure(str(InputError(explain(error, config_name, arguments))), 2)
    if isinstance(error, OSError) and error.filename and error.errno != errno.ENOENT:  # a fault's, more often than not
        return Failure(str(InputError(f"{error.filename}: {error.strerror}")), 2)
    if is_out_of_memory(error):
        said = (str(error).splitlines() or [""])[0][:200]
        what = SMALLER.get(config_name, "what is computed at once")
        line = f"out of memory{f' ({said})' if said else ''}: reduce {what}; what is finished is kept"
        return Failure(str(InputError(line)), 1)
    return None


def _raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf itself refused something with one of Python's own errors."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost is not None else ""
    return isinstance(error, ValueError | TypeError | AssertionError) and module.startswith(("hydra.", "omegaconf."))


def was_interrupted(stop: BaseException) -> bool:
    """Return whether this is Ctrl-C, or an exit in answer to it (Lightning's)."""
    return isinstance(stop, KeyboardInterrupt) or (
        isinstance(stop, SystemExit) and isinstance(stop.__context__, KeyboardInterrupt)
    )


def explain(error: Exception, config_name: str, arguments: Sequence[str]) -> str:
    """Return Hydra's complaint about the command line as one line that names the key, and what it could have been."""
    text = str(error)
    if isinstance(error, MissingMandatoryValue):
        return _missing(getattr(error, "full_key", None) or text.split(":")[-1].strip(), config_name)
    if (named := re.search(r"Could not override '([^'.]+)'", text)) and (CONF / named[1]).is_dir():
        return f"{named[1]}: the name of a choice is needed (choices: {', '.join(choices(named[1]))})"
    if missing := re.search(r"You must specify '([^']+)'", text):
        group = missing[1].partition("@")[0]
        return f"{_missing(missing[1], config_name)} (choices: {', '.join(choices(group))})"
    if unknown := re.search(r"Could not override '([^']+)'\.\s+To append", text):
        return _unknown_knob(unknown[1], config_name, arguments)
    if unknown := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = unknown[1], unknown[2]
        if group == "hydra/launcher" and choice in ("joblib", "submitit_slurm", "submitit_local"):
            return f"hydra/launcher: {choice} is not installed: pip install 'dti-repro[cluster]'"
        return f"unknown {group} '{choice}' (choices: {', '.join(choices(group))})"
    if unknown := re.search(r"Override (\S+)\s+looks like a config group", text):
        return f"unknown key '{unknown[1]}'"
    cause = f": {error.__cause__}" if error.__cause__ is not None else ""
    return " ".join(f"{text}{cause}".split())


def choices(group: str) -> list[str]:
    """Return the names of the yaml files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _missing(key: str, config_name: str) -> str:
    """The example is the first one of the command's own yaml."""
    lines = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    example = next((line for line in lines if line.startswith("# python -m ")), "")
    return f"{key}: a value is needed" + (f", e.g. {re.split('  +', example[2:])[0]}" if example else "")


def _unknown_knob(key: str, config_name: str, arguments: Sequence[str]) -> str:
    """Compose what was chosen without its values, to say who lacks the key and which ones it has."""
    group, _, rest = key.partition(".")
    line = CommandLine.parse(config_name, arguments)
    tried: dict[str, list[str]] = {}
    for choices_of_a_job in line.group_choices():
        cfg = line.compose(choices_of_a_job)
        if OmegaConf.select(cfg, key, throw_on_missing=False) is None:
            owner = cfg.hydra.runtime.choices.get(group)
            node = OmegaConf.select(cfg, group)
            keys = _leaves(node) if OmegaConf.is_dict(node) and rest else [k for k in cfg if k != "hydra"]
            tried.setdefault(f"{group} '{owner}'" if rest and owner else "the configuration", sorted(map(str, keys)))
    who, keys = next(iter(tried.items()), ("the configuration", []))
    prefix = f"{group}." if rest and who != "the configuration" else ""
    return f"{who} has no key '{key}' (its keys: {', '.join(prefix + k for k in keys)})"


def _leaves(node: DictConfig) -> list[str]:
    """Return the dotted names of the values below a node, `_target_` left out."""
    names = []
    for key in node:
        if key == "_target_":
            continue
        child = node._get_node(key)
        names += [f"{key}.{leaf}" for leaf in _leaves(child)] if OmegaConf.is_dict(child) else [str(key)]
    return names
