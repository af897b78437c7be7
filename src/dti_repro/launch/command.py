"""What every command does around its work: Hydra composes the configuration, and an error becomes one line on stderr.

Exit codes: 0 done, 1 a training diverged, a process died or the memory was too small, 2 bad input, 130 Ctrl-C. A fault
of the program keeps its traceback. No torch here: bad input is refused before anything heavy is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.tracking import check_logger
from dti_repro.config import CONF, validate
from dti_repro.config.plugins import set_plugins
from dti_repro.config.values import refuse_secrets
from dti_repro.errors import InputError
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import LAUNCHERS, failure_of
from dti_repro.launch.garbage import collect_rarely
from dti_repro.launch.help import help_text
from dti_repro.launch.sweep import (
    check_launcher,
    first_failure,
    record_job,
    set_sweep_folders,
    summarise,
    take_gpu,
    typed_overrides,
    wait_for_slurm,
)
from dti_repro.launch.untrusted import check_resolved, check_untrusted

Stages = Callable[[CommandLine], list[CommandLine]]


def command(
    config_name: str, stages: Stages = lambda line: [line]
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command of `task(cfg)`: `@command("train") def main(cfg): ...`, to be called as `main()`.

    A task that returns 0 had nothing to compute. `stages` turns the command into several, which run one after the
    other. In a sweep, a job with bad input does not stop the others; a summary of all jobs is printed, and the exit
    code is that of the first failure.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def job(cfg: DictConfig) -> None:
            config = HydraConfig.get()
            failing = partial(failure_of, config_name=config_name, arguments=typed_overrides())

            def work() -> Any:
                if any(source.provider == "command-line" for source in config.runtime.config_sources):
                    check_resolved(OmegaConf.to_container(cfg, resolve=True))
                validate(config_name, cfg)
                if "logger" in cfg:
                    check_logger(cfg)
                return task(cfg)

            if config.mode == RunMode.MULTIRUN:
                if "joblib" in config.launcher._target_:
                    take_gpu()
                return record_job(work, failing)
            try:
                work()
            except Exception as error:
                if (failure := failing(error)) is None:
                    raise
                raise failure from error

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
            if not config_name.startswith("toybox_"):  # which train without load_backbone
                collect_rarely()
            _replace_unknown_characters()
            failure, sweep = None, None
            try:
                line = _read(config_name, sys.argv[1:])
                if "--help" in line.flags:
                    return print(help_text(line, sys.modules[task.__module__].__doc__ or ""))
                commands = stages(line)
                check_launcher(commands)
                placed, sweep = set_sweep_folders(commands)
                for line in placed:
                    sys.argv[1:] = line.arguments()
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                    if sweep is not None and (failure := first_failure(sweep)):
                        break
            except BaseException as error:
                GlobalHydra.instance().clear()
                failure = failure_of(error, config_name, sys.argv[1:])
                if failure is None:
                    raise
                if sweep is not None and type(error).__module__.startswith(LAUNCHERS):
                    wait_for_slurm(sweep)
            finally:
                if sweep is not None and (summary := summarise(sweep)):
                    print(summary, flush=True)
            if failure is not None:
                sys.stdout.flush()
                print(failure.line if failure.code == 130 else f"error: {failure.line}", file=sys.stderr)
                sys.exit(failure.code)

        return main

    return decorate


def _replace_unknown_characters() -> None:
    """Print `?` for a character that the terminal's encoding lacks, here and in the processes that this one starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ["PYTHONIOENCODING"] = f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:replace"


def _read(config_name: str, arguments: Sequence[str]) -> CommandLine:
    """Parse the command line, and check what must be right before Hydra acts on it. Raise InputError."""
    line = CommandLine.parse(config_name, arguments)
    if line.value("hydra.searchpath") is not None:
        raise InputError("hydra.searchpath is not allowed: give --config-dir=<folder>")
    set_plugins(line.plugins)
    started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"
    if started_by_torchrun and config_name != "toybox_pretrain":  # which starts no processes of its own
        key = "trainer.devices" if config_name == "train" else "devices"
        raise InputError(f"torchrun started several of this command, which starts its own: give {key}=<n> without it")
    # The keys of overrides and those inside their values: train=[logger.api_key=...], +logger={api_key: ...}.
    keys = re.findall(r"[\w.+~/@-]+(?==)|(?<=[{,])\s*[\w-]+(?=\s*:)", " ".join(line.overrides))
    refuse_secrets(map(str.strip, keys))
    if line.folder is not None:
        check_untrusted(line.folder)
    return line
