"""How far the training of one concept is, and the files that keep it: log.csv, last.ckpt, embeddings."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from dti_repro.artifacts.files import write_file, writing
from dti_repro.artifacts.run_dir import ConceptFolder, log_column
from dti_repro.errors import InputError
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.runs import EVALUATED, has_settled, is_complete, missing_snapshots

COLUMNS = ("step", "loss", "norm", "angle", "grad_norm")
"""The columns of log.csv. loss: the mean squared error, whatever an adapter's objective makes of it. The others are
means over the vectors. norm and angle (radians, to the initializer): after the step; where vectors depend on the
timestep, those of the step's own timesteps before it. grad_norm: of the gradient that the optimizer gets (prior
included, before it is projected or normalised)."""
MAX_CHECKPOINT = 256 << 20  # bytes; a thousand vectors of 4,096 numbers with two moments each are 48 MiB
MAX_RATIO = 4  # a checkpoint with an adapter may be so many times as large as its parameters, which have two moments


class ConceptState:
    """One concept of a pack: what it is shown, its folder and how many steps are done."""

    def __init__(
        self, cfg: DictConfig, dataset: ConceptDataset, folder: ConceptFolder, header: Mapping[str, str]
    ) -> None:
        """cfg: of the training. header: of the concept's embedding files."""
        self.cfg = cfg
        self.dataset = dataset
        self.name = dataset.concept.name
        self.folder = folder
        self.header = header
        # Snapshots to be made of a result that is whole, and stays as it is.
        self.missing = missing_snapshots(cfg, folder) if is_complete(cfg, folder, with_snapshots=False) else []
        self.snapshots = self.missing or cfg.trainer.snapshots  # the steps whose vectors are saved
        self.end = max(self.missing, default=cfg.trainer.steps)  # after this step there is nothing left to do
        self.checkpoint = folder.snapshot(0).with_name("last.ckpt") if self.missing else folder.checkpoint
        self.columns = (*COLUMNS, EVALUATED) if cfg.trainer.stop else COLUMNS
        self.step = 0  # optimizer steps done
        self.resumed = 0  # the step from which this process went on
        self.rows: list[tuple[float, ...]] = []  # of log.csv, not yet written
        self.evaluated: list[float] = []  # with trainer.stop: the loss on the fixed batch, by step

    @property
    def finished(self) -> bool:
        stops = self.cfg.trainer.stop is not None and has_settled(self.evaluated, self.cfg.trainer)
        return stops or self.step >= self.end

    def add_row(self, *row: float) -> None:
        """Count a step, with the numbers of its row of the log."""
        self.step += 1
        self.rows.append((self.step, *row))
        if self.cfg.trainer.stop:
            self.evaluated.append(row[-1])

    def save(self, learned: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Bring log.csv and last.ckpt (parameters, optimizer state, step: kilobytes without an adapter) to this step,
        in that order. Before the first step there is nothing to save."""
        if self.step == 0:
            return
        if not self.missing:
            rows = self.rows if self.folder.log.is_file() else [self.columns, *self.rows]
            with writing(self.folder.log), self.folder.log.open("a") as file:
                file.write("".join(",".join(map(str, row)) + "\n" for row in rows))
        self.rows.clear()
        moments = {parameter: state for optimizer in optimizers for parameter, state in optimizer.state.items()}
        checkpoint = {
            "step": self.step,
            "parameters": _on_cpu(learned.state_dict()),
            "optimizer": _sorted({name: _on_cpu(moments.get(p, {})) for name, p in learned.named_parameters()}),
        }
        buffer = io.BytesIO()  # torch writes the file's name into the file: go through memory
        torch.save(checkpoint, buffer)
        write_file(self.checkpoint, buffer.getvalue())

    def resume(self, learned: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Go on from last.ckpt, unless there is none, or log.csv ends before it, or a snapshot before it is missing.
        InputError for a checkpoint that cannot be read."""
        checkpoint = self._read_checkpoint(sum(parameter.nbytes for parameter in learned.parameters()))
        step = checkpoint.get("step", 0)
        if self.folder.logged() < step or any(s <= step for s in missing_snapshots(self.cfg, self.folder)):
            step = 0
        if step:
            learned.load_state_dict(checkpoint["parameters"])
            # Not by the optimizers' load_state_dict, which gives every tensor but `step` the type of its parameter.
            owners = {p: (o, group) for o in optimizers for group in o.param_groups for p in group["params"]}
            for name, parameter in learned.named_parameters():
                moments = checkpoint["optimizer"][name].items()
                if moments:
                    optimizer, group = owners[parameter]
                    counts_there = group.get("capturable") or group.get("fused")  # else the step stays on the CPU
                    stays = () if counts_there else ("step",)
                    state = {key: value if key in stays else value.to(parameter.device) for key, value in moments}
                    optimizer.state[parameter] = state
        self.step = self.resumed = step
        if not self.missing:
            self._cut_log(step)
        self.evaluated = log_column(self.folder.log, EVALUATED)[:step] if self.cfg.trainer.stop and step else []

    def _read_checkpoint(self, parameters: int) -> dict[str, Any]:
        """Return the content of last.ckpt, {} if there is none. parameters: their size in bytes."""
        if not self.checkpoint.is_file():
            return {}
        try:
            if self.checkpoint.stat().st_size > max(MAX_CHECKPOINT, MAX_RATIO * parameters):
                raise ValueError("too large")
            checkpoint = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            if checkpoint.keys() != {"step", "parameters", "optimizer"} or not 0 < checkpoint["step"] < 1 << 32:
                raise ValueError("not a checkpoint of a training")
        except Exception as error:
            raise InputError(f"checkpoint {self.checkpoint} cannot be read; remove it to start again") from error
        return checkpoint

    def _cut_log(self, step: int) -> None:
        """Drop rows after the checkpoint's: a process may have died between the two files, or within a row."""
        if self.folder.log.is_file():
            lines = self.folder.log.read_text().split("\n")[: step + 1] if step else [",".join(self.columns)]
            write_file(self.folder.log, "".join(f"{line}\n" for line in lines))


def _sorted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping in the order of its keys, each key one object, so that equal states are equal bytes: pickle
    writes equal strings once if they are one object, and else twice."""
    return {sys.intern(key): content[key] for key in sorted(content)}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as a checkpoint has them, which is the same file on whatever device they were trained."""
    return _sorted({key: tensor.cpu() for key, tensor in tensors.items()})
