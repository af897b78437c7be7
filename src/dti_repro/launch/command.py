"""The shell around every command: Hydra composes the configuration, and whatever goes wrong becomes one line
on stderr.

Exit codes: 0 done, 1 a training diverged, a process of several died or the memory was too small, 2 bad input, 130
stopped by Ctrl-C. A fault of the program itself keeps its traceback. No torch here: bad input is answered before
anything heavy is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dti_repro.config import CONF, validate
from dti_repro.config.secrets import SECRETS_STAY_OUT, is_secret
from dti_repro.errors import InputError, StoppedError
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import STOPPED, Failure, failure_of, was_interrupted
from dti_repro.launch.sweep import (
    check_launcher,
    deal_concepts,
    each_in_its_folder,
    first_failure,
    record_job,
    summarise,
    sweep_folder,
    take_gpu,
    typed_overrides,
    wait_for_the_others,
)
from dti_repro.launch.untrusted import check_foreign, check_resolved

Stages = Callable[[CommandLine], list[CommandLine]]
LAUNCHERS = ("submitit.", "joblib.")  # whose own errors say that a job's process is gone


def command(
    config_name: str, stages: Stages = lambda line: [line]
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command of `task(cfg)`: `@command("train") def main(cfg): ...`, to be called as `main()`. A task that
    returns 0 had nothing to compute. `stages` makes several commands of one: each starts when the one before has done
    all its jobs.

    Works from source, from a wheel and under any launcher (the folder of configs is found beside this file).
    In a multirun a job with bad input does not stop the others; the exit code is that of the first failure, and a
    summary of all jobs is written and printed.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and we say it in one line
            _write_any_character()
            failures: list[Failure] = []

            def job(cfg: DictConfig) -> None:
                """Hydra prints lines of its own for an error that reaches it: only faults of the program do."""
                here = HydraConfig.get()
                failing = partial(failure_of, config_name=config_name, arguments=typed_overrides(here))

                def work() -> Any:
                    _check(config_name, cfg)
                    return task(cfg)

                if here.mode == RunMode.MULTIRUN:
                    if "joblib" in here.launcher._target_:
                        take_gpu()
                    record_job(work, failing)
                    return
                try:
                    work()
                except Exception as error:
                    if (failure := failing(error)) is None:
                        raise
                    failures.append(failure)

            sweep: Path | None = None
            try:
                line = _read(config_name, sys.argv[1:])
                commands = stages(deal_concepts(line))
                check_launcher(commands)
                sweep = sweep_folder(commands)
                for line in each_in_its_folder(commands, sweep):
                    sys.argv[1:] = line.arguments()
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                    if sweep is not None and (failure := first_failure(sweep)):
                        failures.append(failure)
                    if failures:
                        break
            except StoppedError as stop:
                failures.append(Failure(str(stop), 130))
            except (KeyboardInterrupt, SystemExit) as stop:
                if not was_interrupted(stop):
                    raise
                said = str(stop) if isinstance(stop, KeyboardInterrupt) else ""  # an exit has only its code
                failures.append(Failure(said or STOPPED, 130))
            except Exception as error:
                GlobalHydra.instance().clear()
                failure = failure_of(error, config_name, sys.argv[1:])
                if failure is None and type(error).__module__.startswith(LAUNCHERS):
                    said = " ".join(str(error).splitlines()[:2])  # the log follows, which lies in the sweep's folder
                    failure = Failure(str(InputError(f"a job did not get to its end: {said}")), 2)
                    if sweep is not None:
                        wait_for_the_others(sweep)
                if failure is None:
                    raise
                failures.append(failure)
            finally:
                if sweep is not None and (summary := summarise(sweep)):
                    print(summary, flush=True)
            if failures:
                sys.stdout.flush()
                stopped = failures[0].code == 130
                print(failures[0].line if stopped else f"error: {failures[0].line}", file=sys.stderr)
                sys.exit(failures[0].code)

        return main

    return decorate


def _write_any_character() -> None:
    """A character that the terminal's encoding lacks is replaced and ends nothing, here and in the processes that this
    one starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ["PYTHONIOENCODING"] = f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:replace"


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
    return _without_missing_groups(line) if "--help" in line.flags else line


def _without_missing_groups(line: CommandLine) -> CommandLine:
    """Without the groups that have no choice yet, which Hydra would ask for instead of printing its help."""
    try:
        line.compose()
    except HydraException as error:
        if missing := re.search(r"You must specify '([^']+)'", str(error)):
            return _without_missing_groups(line.adding(f"~{missing[1]}"))
    return line


def _check(config_name: str, cfg: DictConfig) -> None:
    """Resolve a job's configuration, so that nothing in it fails later, and judge it."""
    here = HydraConfig.get()
    sources = {source.provider: source.path for source in here.runtime.config_sources}
    folder = Path(sources["command-line"]) if "command-line" in sources else None
    content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    if folder is not None:
        check_resolved(content)
    validate(config_name, cfg)


def _keys_in(override: str) -> list[str]:
    """The key of an override, and those inside its value: `train=[logger.api_key=...]`, `+logger={api_key: ...}`."""
    return [key.strip() for key in re.findall(r"[\w.+~/@-]+(?==)|(?<=[{,])\s*[\w-]+(?=\s*:)", override)]


def quote_paths(argument: str) -> str:
    """Return an override that Hydra cannot read with quotes around its value: run folders have a second `=`, and
    folders of photos spaces, parentheses, other letters or `~`, which becomes the home folder. Each value of a sweep
    or list is judged by itself; quotes that are there stay."""
    key, _, value = argument.partition("=")
    if not value or argument.startswith("-") or '"' in value or value.startswith(("'", "{")) or _is_readable(argument):
        return argument
    if re.fullmatch(r"\[[^']+\]", value):
        items = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", value[1:-1])
        return f"{key}=[{','.join(map(_quoted, items))}]"
    return f"{key}={','.join(map(_quoted, value.split(',')))}"


def _quoted(item: str) -> str:
    return item if _is_readable(f"x={item}") else f'"{os.path.expanduser(item.strip())}"'


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
