"""What happens around the steps of a training: its bar, Ctrl-C, the signals of others."""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dti_repro.errors import StoppedError

if TYPE_CHECKING:
    from dti_repro.training.lit_module import InversionModule

TWICE = 1.0  # seconds: a terminal's signal and one that is sent on come almost together, and are one Ctrl-C


class OwnSignals(Callback):
    """Leaves signals to whoever had them. Lightning would requeue a Slurm job itself at SIGUSR1, and take SIGTERM,
    which Slurm sends with a preemption, for the end of the training; submitit answers both rightly."""

    def __init__(self) -> None:
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self.handlers = {number: signal.getsignal(number) for number in numbers}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number, handler in self.handlers.items():
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


class Interruptible(Callback):
    """Within it Ctrl-C ends the training after the step that is being taken, with its state saved; a second Ctrl-C ends
    it at once. StoppedError says where it stopped."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._before: Any = None

    def __enter__(self) -> Interruptible:
        own = threading.current_thread() is threading.main_thread()
        if own and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked is not None and time.monotonic() - self._asked > TWICE:
            raise StoppedError("stopped at once: the same command goes on from the last checkpoint")
        self._asked = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: InversionModule, *_: Any) -> None:
        if self._asked is not None:
            raise StoppedError(pl_module.stop())


class StepBar(Callback):
    """A bar on stderr. It counts steps from the one that the training goes on from."""

    def __init__(self, done: int, total: int, console: Console | None = None) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(bar_width=20),
            TextColumn("step {task.completed} of {task.total}"),
            Speed(),
            TimeRemainingColumn(compact=True),
            TextColumn("left{task.fields[loss]}"),
        )
        self._done = done
        self.bar = Progress(*columns, console=console or Console(stderr=True), speed_estimate_period=600)
        self._task = self.bar.add_task("", total=total, completed=done, loss="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: InversionModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = f", loss {pl_module.last_loss:.4f}"
        self.bar.update(self._task, completed=self._done + batch_idx + 1, loss=loss)


class Speed(ProgressColumn):
    """Steps a second, or where a step takes longer, seconds a step."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it")
