"""What happens around the steps of a training: checkpoints, previews, the progress bar, signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from dti_repro.artifacts.image_grid import Grid
from dti_repro.errors import DivergedError, StoppedError
from dti_repro.methods.word_files import learned_word, save_word
from dti_repro.optim.spherical_sgd import SphereOptimizer

if TYPE_CHECKING:
    from dti_repro.artifacts.tracking import Tracker
    from dti_repro.training.batches import Batch
    from dti_repro.training.concept_state import ConceptState
    from dti_repro.training.lit_module import InversionModule

BAR = "training {bar:20} step {n} of {total}, {rate_fmt}, {remaining} left{postfix}"
SAME_PRESS = 1.0  # seconds: a terminal's signal and one that is passed on come within a second: this is one Ctrl-C


class ConceptCheckpoint(Callback):
    """Resumes each concept of a pack from its last.ckpt, and writes its log, checkpoints, snapshots and embedding."""

    def __init__(self, complete: Callable[[ConceptState], None]) -> None:
        """complete(state) is called before the embedding of a finished concept is written."""
        self._complete = complete

    def on_fit_start(self, trainer: pl.Trainer, pl_module: InversionModule) -> None:
        for c, state in enumerate(pl_module.states):
            state.resume(pl_module.learned(c), trainer.optimizers)
            if state.finished:  # a process died between its last checkpoint and the embedding
                self._finish(pl_module, c)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: InversionModule, outputs: Any, batch: dict[int, Batch], batch_idx: int
    ) -> None:
        settings = pl_module.settings
        for c in batch:
            state = pl_module.states[c]
            if state.step in state.snapshots:
                self._save_embedding(pl_module, c, state.folder.snapshot(state.step), step=str(state.step))
            if state.finished or state.step % settings.checkpoint_every == 0:
                state.save(pl_module.learned(c), trainer.optimizers)
            if state.finished:
                self._finish(pl_module, c)
        if settings.stop and all(state.finished for state in pl_module.states):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: InversionModule) -> None:
        for c, state in enumerate(pl_module.states):
            if not state.finished:
                state.save(pl_module.learned(c), trainer.optimizers)

    def on_exception(self, trainer: pl.Trainer, pl_module: InversionModule, exception: BaseException) -> None:
        if isinstance(exception, DivergedError):  # raised before the step: the state is the last good one
            self.on_train_end(trainer, pl_module)

    def _finish(self, pl_module: InversionModule, c: int) -> None:
        """Write the embedding last: it says that the concept is done."""
        state = pl_module.states[c]
        if state.missing:  # the result is there already
            state.checkpoint.unlink(missing_ok=True)
            return
        self._complete(state)
        self._save_embedding(pl_module, c, state.folder.embedding)

    def _save_embedding(self, pl_module: InversionModule, c: int, path: Path, **header: str) -> None:
        """Write the embedding after the adapter: it says that the adapter is there, too."""
        header |= pl_module.adapter.save(path)
        state = pl_module.states[c]
        placeholder = state.dataset.concept.placeholder
        with _as_saved(pl_module):
            save_word(path, placeholder, pl_module.method, c, pl_module.method_config, {**state.header, **header})


def _as_saved(pl_module: InversionModule) -> AbstractContextManager[None]:
    """Give the vectors their saved values, while the context is open."""
    optimizer = pl_module.trainer.optimizers[0]
    return optimizer.as_saved() if isinstance(optimizer, SphereOptimizer) else nullcontext()


class Previews(Callback):
    """Draws `preview_prompts` every `preview_every` steps, into a grid in the concept's folder and the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: InversionModule, outputs: Any, batch: dict[int, Batch], batch_idx: int
    ) -> None:
        for c in batch:
            state = pl_module.states[c]
            if state.step % pl_module.settings.preview_every == 0:
                concept = state.dataset.concept
                prompts = [concept.fill(template) for template in pl_module.settings.preview_prompts]
                words = {concept.placeholder: learned_word(pl_module.method, c)}
                with _as_saved(pl_module):
                    images = pl_module.backbone.generate(prompts, words, [0] * len(prompts), steps=20, guidance=5.0)
                grid = Grid(columns=prompts, rows={f"step {state.step}": images})
                path = grid.save(state.folder.previews / f"step_{state.step:06d}.png")
                self._tracker.images(f"{state.name}/previews", {"preview": path}, state.step)


class Signals(Callback):
    """Stops the training at Ctrl-C: after the current step (`stopped` is then true), or at once at a second Ctrl-C.

    The handler of SIGTERM stays: Slurm sends this signal at a preemption, and submitit's handler requeues the job.
    Lightning's handler would end the training.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._pressed = 0.0
        self._on_main_thread = threading.current_thread() is threading.main_thread()  # others get no signals
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._sigint: Any = None

    def __enter__(self) -> Signals:
        if self._on_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._sigint = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sigint is not None:
            signal.signal(signal.SIGINT, self._sigint)

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopped and time.monotonic() - self._pressed > SAME_PRESS:
            raise StoppedError("stopped at once: the same command goes on from the last checkpoint")
        self.stopped = True
        self._pressed = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: InversionModule) -> None:
        if self._on_main_thread and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: InversionModule, *_: Any) -> None:
        trainer.should_stop |= self.stopped


class StepBar(Callback):
    """Shows a bar on a terminal. It counts steps from the one that the training goes on from."""

    _bar: tqdm | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: InversionModule) -> None:
        done = min(state.step for state in pl_module.states)
        self._bar = tqdm(total=pl_module.settings.steps, initial=done, bar_format=BAR, disable=None)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: InversionModule, *_: Any) -> None:
        self._bar.set_postfix_str(f"loss {pl_module.last_loss:.4f}", refresh=False)
        self._bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: InversionModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: InversionModule, exception: BaseException) -> None:
        if self._bar is not None:  # the message goes below it
            self._bar.close()
