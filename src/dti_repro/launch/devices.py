"""One command on several devices of a machine: a process for each, and for each process its share of the work.

A concept's training, a picture and a score depend on nothing that another process computes, and are files of their own.
So the processes send one another nothing, and write the same bytes as one process would.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TypeVar

from dti_repro.artifacts.lock import BusyError
from dti_repro.errors import (
    DivergedError,
    InputError,
    OutOfMemoryError,
    ProcessDiedError,
    StoppedError,
    is_out_of_memory,
)

T = TypeVar("T")
R = TypeVar("R")
GRACE = 1.0  # seconds from an error to SIGTERM, and from there to SIGKILL, which costs no more than what is unwritten
STOPPING = 60.0  # seconds that the processes have after Ctrl-C to end their step and to write what they have


def run_on_devices(work: Callable[[list[T]], R], items: Sequence[T], devices: int, accelerator: str) -> list[R]:
    """[work(items)], or where there are several devices and items, work(items[k::n]) in n processes, of which each sees
    one GPU and only the first one prints. work, items and results are pickled; the results are in no order.

    The first error in one of them ends all and is raised here; BusyError waits until the others are done. After Ctrl-C
    the processes have time to stop by themselves. ProcessDiedError for one that was killed. InputError before anything
    is started if there are fewer GPUs.
    """
    count = min(devices, len(items))
    if count < 2:
        return [work(list(items))]
    gpus = _gpus(devices, accelerator)
    import torch.multiprocessing as mp

    logging.getLogger(mp.spawn.__module__).setLevel(logging.ERROR)  # it says whom it ends; we say why
    answers = mp.get_context("spawn").SimpleQueue()
    shares = [list(items[k::count]) for k in range(count)]
    answered = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    started = mp.spawn(_share, (work, shares, gpus, answers, answered), nprocs=count, join=False)
    ended: BaseException | None = None
    try:
        while not started.join(grace_period=GRACE):
            pass
    except mp.ProcessExitedException as death:
        by = death.signal_name or f"exit {death.exit_code}"
        ended = ProcessDiedError(
            f"process {death.error_index + 1} of {count} ended by {by}, and with it the others: what is finished "
            "is kept, and the same command goes on from there"
        )
    except KeyboardInterrupt as interrupt:
        ended = interrupt
        for process in started.processes:
            if process.is_alive():  # a terminal has told them, too; whoever sent it to us alone has not
                os.kill(process.pid, signal.SIGINT)
        for process in started.processes:
            process.join(STOPPING)
    finally:
        for process in started.processes:
            if process.is_alive():  # we were told to end while they are at work
                process.kill()
    results = []
    while not answers.empty():
        results.append(answers.get())
    if error := next((result for result in results if isinstance(result, BaseException)), ended):
        raise error
    return results


def _share(
    index: int, work: Callable[[list[T]], R], shares: list[list[T]], gpus: list[str], answers: Any, answered: bool
) -> None:
    """What one of the processes does. answered: whether the process that started it has an answer to SIGTERM."""
    # Slurm sends its signals to every process of a job; the one that started us answers for all.
    for number in (signal.SIGUSR1, signal.SIGUSR2, *([signal.SIGTERM] if answered else [])):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which torch has sent when that one dies
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index]
    try:
        if index == 0:
            answers.put(work(shares[index]))
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                answers.put(work(shares[index]))
    except BusyError as error:
        answers.put(error)
    except (InputError, DivergedError, OutOfMemoryError) as error:
        answers.put(error)
        sys.exit(1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        answers.put(MemoryError((str(error).splitlines() or [""])[0]))
        sys.exit(1)
    except StoppedError as error:
        answers.put(error)
        sys.exit(128 + signal.SIGINT)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # torch would take it for a good end


def _gpus(devices: int, accelerator: str) -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES has them; none if the work is for the CPU."""
    import torch

    from dti_repro.backbones.load import device_of

    if device_of(accelerator) == "cpu":
        return []
    there = torch.cuda.device_count()
    if there < devices:
        raise InputError(f"{devices} devices were asked for, and torch sees {there} of them here")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(k) for k in range(there)]
