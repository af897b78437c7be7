"""One command on several devices of a machine: one process for each device, with its share of the work.

The training of a concept, an image and a score depend on nothing that another process computes, and are files of their
own. So the processes exchange nothing. They write the same bytes as one process would, except trainings of fused packs
(`trainer.fuse`, the default on a GPU): other packs round otherwise.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
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
GRACE = 1.0  # seconds from an error to SIGTERM, and from there to SIGKILL; only unwritten work is lost
STOPPING = 60.0  # seconds that the processes have after Ctrl-C to finish their step and to write it


def run_on_devices(work: Callable[[list[T]], R], items: Sequence[T], devices: int, accelerator: str) -> list[R]:
    """Return [work(items)], or, with several devices and items, the results of work(items[k::n]) in n processes.

    Each process sees one GPU, and only the first one prints. `work`, items and results are pickled; the results have no
    order. The first error of a process ends all and is raised here; a DivergedError and a BusyError wait for the
    others. After Ctrl-C the processes have STOPPING seconds. ProcessDiedError if one was killed. InputError if there
    are fewer GPUs.
    """
    count = min(devices, len(items))
    if count < 2:
        return [work(list(items))]
    gpus = _gpus(devices, accelerator)
    import torch.multiprocessing as mp

    logging.getLogger(mp.spawn.__module__).setLevel(logging.ERROR)  # it lists the processes that it ends
    results = mp.get_context("spawn").SimpleQueue()
    shares = [list(items[k::count]) for k in range(count)]
    parent_ignores = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    started = mp.spawn(_run_share, (work, shares, gpus, results, parent_ignores), nprocs=count, join=False)
    failed: BaseException | None = None
    try:
        while not started.join(grace_period=GRACE):
            pass
    except mp.ProcessExitedException as death:
        cause = death.signal_name or f"exit {death.exit_code}"
        failed = ProcessDiedError(
            f"process {death.error_index + 1} of {count} ended by {cause}, and with it the others: what is finished "
            "is kept, and the same command goes on from there"
        )
    except KeyboardInterrupt as interrupt:
        failed = interrupt
        for process in started.processes:
            if process.is_alive():  # Ctrl-C in a terminal reaches it; a signal sent to this process alone does not
                os.kill(process.pid, signal.SIGINT)
        for process in started.processes:
            process.join(STOPPING)
    finally:
        for process in started.processes:
            process.kill()  # if it still runs
    found = []
    while not results.empty():
        found.append(results.get())
    errors = [result for result in (*found, failed) if isinstance(result, BaseException)]
    if errors:  # those that waited for the others say less
        raise min(errors, key=lambda error: 2 * isinstance(error, BusyError) + isinstance(error, DivergedError))
    return found


def _run_share(
    index: int, work: Callable[[list[T]], R], shares: list[list[T]], gpus: list[str], results: Any, parent_ignores: bool
) -> None:
    """Run the share of one process, and put the result or the error that the user should see into `results`."""
    # Slurm sends its signals to every process of a job; the parent answers them for all.
    for number in (signal.SIGUSR1, signal.SIGUSR2, *([signal.SIGTERM] if parent_ignores else [])):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # torch sends it when the parent dies
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index]
    if index > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, until this process ends
    try:
        results.put(work(shares[index]))
    except (BusyError, DivergedError) as error:
        results.put(error)
    except (InputError, OutOfMemoryError, StoppedError) as error:
        results.put(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)  # torch would take it for success
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        results.put(MemoryError(str(error).partition("\n")[0]))
        sys.exit(1)


def _gpus(devices: int, accelerator: str) -> list[str]:
    """Return the names of the GPUs as in CUDA_VISIBLE_DEVICES, or nothing if the work is for the CPU."""
    import torch

    count = torch.cuda.device_count()
    if accelerator == "cpu" or (accelerator == "auto" and count == 0):
        return []
    if count < devices:
        raise InputError(f"devices={devices} are asked for, and torch sees {count} GPUs here")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(k) for k in range(count)]
