"""One concept being taught: what it is shown at which step, and what is kept of it on disk."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dti_repro.artifacts.embedding import save_embeddings
from dti_repro.artifacts.files import atomic_write, writing
from dti_repro.artifacts.run_dir import ConceptFolder, is_whole
from dti_repro.backbones.base import Backbone, InitializerEmbedding, LatentDistribution, Tokens
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.photos import centre_crop, load_photo
from dti_repro.data.randomness import generator
from dti_repro.errors import InputError

COLUMNS = ("step", "loss", "norm", "angle", "grad_norm")
"""Of log.csv; loss is the mean squared error, whatever an adapter's objective makes of it. Means over the vectors:
norm and angle (radians, to the initializer) after the step; grad_norm of what the optimizer is given (prior
included), before it projects or normalises."""
MAX_CHECKPOINT = 256 << 20  # bytes; a thousand vectors of 4,096 numbers with two moments each are 48 MiB
MAX_SHARE = 4  # times the parameters' own bytes, where these are more: an adapter's, which have two moments each too


@dataclass(frozen=True)
class Batch:
    """Everything random of one optimizer step of one concept; n = batch x accumulate samples."""

    image: Tensor  # (n,)
    template: Tensor  # (n,)
    t: Tensor  # (n,)
    latent_noise: Tensor  # (n, channels, height, width), for sampling the VAE's posterior
    noise: Tensor  # the same shape, what the denoiser has to predict


@dataclass
class ConceptState:
    """A concept, its encoded photos and prompts, and how far it is."""

    concept: Concept
    folder: ConceptFolder
    start: InitializerEmbedding
    tokens: Tokens  # one row per template
    class_tokens: Tokens  # the same with the class word
    latents: LatentDistribution
    seed: int
    header: Mapping[str, str]
    step: int = 0  # optimizer steps done
    resumed: int = 0  # the step that this process went on from
    rows: list[tuple[float, ...]] = field(default_factory=list)  # of the log, since it was last written

    @classmethod
    def prepare(
        cls,
        backbone: Backbone,
        concept: Concept,
        folder: ConceptFolder,
        templates: Sequence[str],
        seed: int,
        header: Mapping[str, str],
        cache: LatentCache,
    ) -> ConceptState:
        """Tokenize the templates, decode and encode the photos: both once."""
        start = backbone.embed_initializer(concept.name, concept.initializer, seed)
        prompts = [template.replace("{}", concept.placeholder) for template in templates]
        plain = [template.replace("{}", concept.class_word) for template in templates]
        size = backbone.spec.resolution
        photos = [np.asarray(centre_crop(load_photo(path), size)) for path in concept.images]
        pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = cache.encode(backbone, pixels)
        tokens = backbone.tokenize(prompts, {concept.placeholder: start.positions})
        return cls(concept, folder, start, tokens, backbone.tokenize(plain, {}), latents, seed, header)

    def draw(self, n: int, timesteps: int) -> Batch:
        """The samples of the next step: a function of (seed, concept, step) alone. Each photo is shown
        equally often."""
        random = generator(self.seed, self.concept.name, "step", self.step)
        shape = (n, *self.latents.mean.shape[1:])
        return Batch(
            image=torch.tensor([self._photo(self.step * n + i) for i in range(n)]),
            template=torch.randint(len(next(iter(self.tokens.ids.values()))), (n,), generator=random),
            t=torch.randint(timesteps, (n,), generator=random),
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
        )

    def _photo(self, position: int) -> int:
        epoch, place = divmod(position, len(self.latents.mean))
        order = torch.randperm(
            len(self.latents.mean), generator=generator(self.seed, self.concept.name, "epoch", epoch)
        )
        return int(order[place])

    def save(self, learned: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Bring log.csv and last.ckpt (parameters, optimizer state, step: kilobytes without an adapter) to this step,
        in that order. Before the first step there is nothing to keep."""
        if self.step == 0:
            return
        self._write_log()
        optimizer = {
            name: _on_cpu(_owner(parameter, optimizers).state.get(parameter, {}))
            for name, parameter in learned.named_parameters()
        }
        parameters = _on_cpu(learned.state_dict())
        state = {"step": self.step, "parameters": parameters, "optimizer": _same_bytes(optimizer)}
        buffer = io.BytesIO()  # torch writes the file's name into the file: go through memory
        torch.save(state, buffer)
        with atomic_write(self.folder.checkpoint) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def resume(self, learned: nn.Module, optimizers: Sequence[Optimizer], snapshots: Sequence[int]) -> None:
        """Go on from last.ckpt, if there is one and it does not lie beyond a snapshot that is wanted and missing, or
        beyond the log."""
        state = self._read_checkpoint(sum(parameter.nbytes for parameter in learned.parameters()))
        step = state.get("step", 0)
        missing = any(s <= step and not is_whole(self.folder.snapshot(s)) for s in snapshots)
        if not state or missing or self.folder.logged() < step:
            self._cut_log(0)
            return
        learned.load_state_dict(state["parameters"])
        for name, parameter in learned.named_parameters():
            kept = {k: v.to(parameter.device) if v.ndim else v for k, v in state["optimizer"][name].items()}
            if kept:
                _owner(parameter, optimizers).state[parameter] = kept
        self.step = self.resumed = step
        self._cut_log(step)

    def keep(self, path: Path, vectors: Mapping[str, Tensor], **header: str) -> None:
        """Write an embedding, one file per text encoder."""
        save_embeddings(path, self.concept.placeholder, vectors, {**self.header, **header})

    def _read_checkpoint(self, learned: int) -> dict[str, Any]:
        """learned: bytes of what it is to hold the state of."""
        if not self.folder.checkpoint.is_file():
            return {}
        try:
            if self.folder.checkpoint.stat().st_size > max(MAX_CHECKPOINT, MAX_SHARE * learned):
                raise ValueError("too large")
            state = torch.load(self.folder.checkpoint, weights_only=True, map_location="cpu")
            if state.keys() != {"step", "parameters", "optimizer"} or not 0 < state["step"] < 1 << 32:
                raise ValueError("of another kind")
        except Exception as error:
            raise InputError(f"checkpoint {self.folder.checkpoint} cannot be read; remove it to start again") from error
        return state

    def _write_log(self) -> None:
        new = not self.folder.log.is_file()
        with writing(self.folder.log), self.folder.log.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerows(self.rows)
        self.rows.clear()

    def _cut_log(self, step: int) -> None:
        """Drop rows beyond the checkpoint: a process may have died between the two files, or within a row."""
        if not self.folder.log.is_file():
            return
        lines = self.folder.log.read_text().split("\n")
        kept = lines[: step + 1] if step else []
        with atomic_write(self.folder.log) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept or [",".join(COLUMNS)]))


def _same_bytes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Pickle writes equal strings once if they are one object, else twice; those of a resumed state are not. One object
    each, in one order: equal states are then equal bytes."""
    return {sys.intern(key): content[key] for key in sorted(content)}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint is the same file wherever it was trained."""
    return _same_bytes({key: tensor.cpu() for key, tensor in tensors.items()})


def _owner(parameter: nn.Parameter, optimizers: Sequence[Optimizer]) -> Optimizer:
    return next(o for o in optimizers if any(p is parameter for g in o.param_groups for p in g["params"]))
