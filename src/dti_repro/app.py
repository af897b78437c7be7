"""The shell around every command: Hydra composes the configuration, and whatever goes wrong becomes one line
on stderr.

Exit codes: 0 done, 1 a training diverged or a process of several died, 2 bad input. A fault of the program itself keeps
its traceback. No torch here: bad input is answered before anything heavy is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dti_repro.command_line import CONF, CommandLine
from dti_repro.errors import DivergedError, InputError, ProcessDiedError
from dti_repro.foreign import check_foreign
from dti_repro.launching import (
    check_launcher,
    deal_concepts,
    each_in_its_folder,
    recorded,
    summarise,
    sweep_folder,
    take_gpu,
    wait_for_the_others,
)

Stages = Callable[[CommandLine], list[CommandLine]]
SAID = (InputError, DivergedError, ProcessDiedError)  # whose message is all that a user needs
LAUNCHERS = ("submitit.", "joblib.")  # whose own errors say that a job's process is gone
SECRETS_STAY_OUT = "configurations are written to files: no secret belongs in them; W&B reads WANDB_API_KEY"


def entry(
    config_name: str, stages: Stages = lambda line: [line]
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command of `task(cfg)`: `@entry("train") def main(cfg): ...`, to be called as `main()`. A task that
    returns 0 had nothing to compute. `stages` makes several commands of one: each starts when the one before has done
    all its jobs.

    Works from source, from a wheel and under any launcher (the folder of configs is found beside this file).
    In a multirun a job with bad input does not stop the others; the exit code is that of the first failure, and a
    summary of all jobs is written and printed.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and we say it in one line
            failures: list[Exception] = []

            def job(cfg: DictConfig) -> None:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    if "joblib" in HydraConfig.get().launcher._target_:
                        take_gpu()
                    with recorded() as record:  # an error goes on to Hydra, which goes on with the next job
                        if task(cfg) == 0:
                            record.outcome = "was there"
                    return
                try:
                    task(cfg)
                except SAID as error:
                    failures.append(error)

            sweep: Path | None = None
            try:
                line = _read(config_name, sys.argv[1:])
                commands = stages(deal_concepts(line))
                check_launcher(commands)
                sweep = sweep_folder(commands)
                for command in each_in_its_folder(commands, sweep):
                    sys.argv[1:] = command.arguments()
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                    if failures:
                        break
            except SAID as error:
                failures.append(error)
            except (HydraException, OmegaConfBaseException) as error:
                GlobalHydra.instance().clear()
                failures.append(InputError(explain(error, config_name, sys.argv[1:])))
            except Exception as error:
                if not type(error).__module__.startswith(LAUNCHERS):
                    raise
                said = " ".join(str(error).splitlines()[:2])  # the log follows, which lies in the sweep's folder
                failures.append(InputError(f"a job did not get to its end: {said}"))
                if sweep is not None:
                    wait_for_the_others(sweep)
            finally:
                if sweep is not None and (summary := summarise(sweep)):
                    print(summary, flush=True)
            if failures:
                sys.stdout.flush()
                print(f"error: {failures[0]}", file=sys.stderr)
                sys.exit(2 if isinstance(failures[0], InputError) else 1)

        return main

    return decorate


def _read(config_name: str, arguments: Sequence[str]) -> CommandLine:
    """The command line, judged before Hydra acts on it. InputError."""
    line = CommandLine.parse(config_name, [quote_paths(argument) for argument in arguments])
    started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"
    if started_by_torchrun and config_name != "toybox_pretrain":  # which starts no processes of its own
        key = "trainer.devices" if config_name == "train" else "devices"
        raise InputError(f"torchrun started several of this command, which starts its own: give {key}=<n> without it")
    if secret := next((key for override in line.overrides for key in _keys_in(override) if is_secret(key)), None):
        raise InputError(f"{secret}: {SECRETS_STAY_OUT}")
    check_foreign(line)
    return line


def is_secret(key: str) -> bool:
    """Whether a configuration key is one that takes a password or a key of a service."""
    return re.search(r"(api_?key|password|passwd|secret|(access|auth)_?token)$", key, re.IGNORECASE) is not None


def _keys_in(override: str) -> list[str]:
    """The key of an override, and those inside its value: `train=[logger.api_key=...]`, `+logger={api_key: ...}`."""
    return [key.strip() for key in re.findall(r"[\w.+~/@-]+(?==)|(?<=[{,])\s*[\w-]+(?=\s*:)", override)]


def secret_in(node: Any, at: str = "") -> str | None:
    """The dotted name of a key, at any depth of nested containers, that takes a secret; None if there is none."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        name = f"{at}.{key}" if at else str(key)
        if found := name if is_secret(name) else secret_in(child, name):
            return found
    return None


def quote_paths(argument: str) -> str:
    """`run=runs/x/seed=42` as Hydra takes it, which allows a second `=` only in quotes; run folders have one, and so
    have lists of overrides, `train=[trainer.steps=4,seed=0]`. Each value of a sweep or list by itself; what is quoted
    already stays."""
    key, _, value = argument.partition("=")
    if "=" in value and re.fullmatch(r"\[[^'\"]+\]", value):
        items = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", value[1:-1])
        return f"{key}=[" + ",".join(f'"{item}"' if "=" in item else item for item in items) + "]"
    if "=" not in value or not re.fullmatch(r"[\w./+=,:~ -]+", value):
        return argument
    return f"{key}=" + ",".join(f'"{part}"' for part in value.split(","))


def explain(error: Exception, config_name: str, arguments: Sequence[str]) -> str:
    """Hydra's complaint about the command line as one line that names the knob, and what it could have
    been."""
    text = str(error)
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
    """Names of the yaml files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _unknown_knob(key: str, config_name: str, arguments: Sequence[str]) -> str:
    """Compose what was chosen without its values, to say who lacks the knob and which ones it has."""
    group, _, rest = key.partition(".")
    line = CommandLine.parse(config_name, arguments)
    tried: dict[str, list[str]] = {}
    for choices_of_a_job in line.group_choices():
        cfg = line.compose(choices_of_a_job)
        if OmegaConf.select(cfg, key, throw_on_missing=False) is None:
            owner = cfg.hydra.runtime.choices.get(group)
            node = OmegaConf.select(cfg, group)
            knobs = _leaves(node) if OmegaConf.is_dict(node) and rest else [k for k in cfg if k != "hydra"]
            tried.setdefault(f"{group} '{owner}'" if rest and owner else "the configuration", sorted(map(str, knobs)))
    who, knobs = next(iter(tried.items()), ("the configuration", []))
    prefix = f"{group}." if rest and who != "the configuration" else ""
    return f"{who} has no knob '{key}' (its knobs: {', '.join(prefix + k for k in knobs)})"


def _leaves(node: DictConfig) -> list[str]:
    """Dotted names of the values below a node, `_target_` left out."""
    names = []
    for key in node:
        if key == "_target_":
            continue
        child = node._get_node(key)
        names += [f"{key}.{leaf}" for leaf in _leaves(child)] if OmegaConf.is_dict(child) else [str(key)]
    return names
