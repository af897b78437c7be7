"""The one training loop: a frozen backbone, a method's vectors, an optimizer. Everything else is
elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.backbones.base import Backbone, Conditioning, Tokens
from dti_repro.errors import DivergedError, InputError
from dti_repro.methods.base import TokenMethod
from dti_repro.optim.sphere import angle
from dti_repro.training.concept_state import Batch, ConceptState


@dataclass(frozen=True)
class Schedule:
    """How long, how much at once, and when something is kept; counted in optimizer steps."""

    steps: int
    batch: int
    accumulate: int
    checkpoint_every: int
    snapshots: frozenset[int]
    max_loss: float
    fuse: bool  # one pass for all concepts of the pack, or one for each


class InversionModule(pl.LightningModule):
    """Steps all unfinished concepts of a pack at once; each is at its own step.

    The loss is the mean over a concept's samples, then the sum over concepts, plus the priors: a packed step
    is the same as separate ones. (A mean over the whole batch would not be: kappa acts before the gradient is
    normalised.)
    """

    def __init__(
        self,
        backbone: Backbone,
        method: TokenMethod,
        concept_states: Sequence[ConceptState],
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        adapter: Adapter,
        watch: Callable[[ConceptState, dict[str, Tensor]], None] = lambda state, vectors: None,
        finish: Callable[[ConceptState], None] = lambda state: None,
    ) -> None:
        """optimizer(groups) makes the configured one. adapter: attached to the backbone. watch(state, vectors) is
        called after each step of each concept, finish(state) before its embedding is written.

        InputError for a method with more or fewer vectors than the prompts read.
        """
        super().__init__()
        self.automatic_optimization = False
        vars(self)["backbone"] = backbone  # no child: Lightning moves its module to the CPU when `fit` ends
        self.method = method
        self.concept_states = list(concept_states)
        self.schedule = schedule
        self.adapter = adapter
        self.last_loss = math.nan  # mean over the concepts
        self._watch = watch
        self._finish = finish
        for c, state in enumerate(self.concept_states):
            _check_vectors(method.export(c), state)
        groups = method.param_groups()
        vectors = [group for group in groups if "lr" not in group]
        others = [group for group in groups if "lr" in group]
        self._optimizers = [optimizer(vectors), *([Adam(others)] if others else []), *adapter.optimizers()]
        for c, state in enumerate(self.concept_states):
            state.resume(self._learned(c), self._optimizers, sorted(schedule.snapshots))
            if state.step == schedule.steps:  # a process died between its last checkpoint and the embedding
                self._complete(c, method.export(c))

    def configure_optimizers(self) -> list[Optimizer]:
        return self._optimizers

    def train_dataloader(self) -> range:
        """Ticks; at each one all unfinished concepts take a step."""
        return range(self.schedule.steps - min(state.step for state in self.concept_states))

    def training_step(self, batch: int, batch_idx: int) -> None:
        schedule = self.schedule
        active = [c for c, state in enumerate(self.concept_states) if state.step < schedule.steps]
        samples = schedule.batch * schedule.accumulate
        draws = [self.concept_states[c].draw(samples, self.backbone.spec.timesteps) for c in active]
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(len(active), device=self.device)
        places = [list(range(len(active)))] if schedule.fuse else [[i] for i in range(len(active))]
        for k in range(schedule.accumulate):
            part = slice(k * schedule.batch, (k + 1) * schedule.batch)
            for group in places:
                concepts = [active[i] for i in group]
                per_concept, objective = self._losses(concepts, [draws[i] for i in group], part)
                total = objective.sum() / schedule.accumulate
                if k == 0:
                    total = total + self.method.prior()[concepts].sum()
                self.manual_backward(total)
                losses[group] += per_concept.detach() / schedule.accumulate
        gradients = torch.stack([self._gradient_norm(c) for c in active])
        measured = torch.stack([losses, gradients]).tolist()
        for c, loss, gradient in zip(active, *measured, strict=True):
            self._check(c, loss, gradient)
        for optimizer in self.optimizers() if len(self._optimizers) > 1 else [self.optimizers()]:
            optimizer.step()
        self.last_loss = sum(measured[0]) / len(active)
        learned = [self.method.export(c) for c in active]
        shapes = torch.stack([self._norm_and_angle(c, own) for c, own in zip(active, learned, strict=True)]).tolist()
        for c, own, loss, gradient, shape in zip(active, learned, *measured, shapes, strict=True):
            self._after_step(c, own, loss, gradient, shape)

    def _losses(self, concepts: Sequence[int], draws: Sequence[Batch], part: slice) -> tuple[Tensor, Tensor]:
        """Mean loss of each of these concepts over one part of its samples, and what of it is minimised: (concepts,)
        both."""
        concept_states = [self.concept_states[c] for c in concepts]
        latents = torch.cat(
            [
                state.latents.sample(draw.image[part].to(self.device), draw.latent_noise[part].to(self.device))
                for state, draw in zip(concept_states, draws, strict=True)
            ]
        )
        noise = torch.cat([draw.noise[part] for draw in draws]).to(self.device)
        t = torch.cat([draw.t[part] for draw in draws]).to(self.device)
        templates = [draw.template[part] for draw in draws]

        def encoded(class_word: bool) -> Conditioning:
            rows = [state.class_tokens if class_word else state.tokens for state in concept_states]
            tokens = Tokens.concat([own[template] for own, template in zip(rows, templates, strict=True)])
            if class_word:
                return self.backbone.encode_text(tokens)
            concept = torch.tensor(concepts).repeat_interleave(self.schedule.batch)
            return self.backbone.encode_text(tokens, self.method(concept, t))

        def mean_loss(class_word: bool) -> Tensor:
            loss = self.backbone.loss(latents, noise, t, encoded(class_word))
            return loss.view(len(concepts), self.schedule.batch).mean(dim=1)

        loss = mean_loss(class_word=False)
        return loss, self.adapter.objective(loss, mean_loss)

    def _learned(self, c: int) -> nn.Module:
        return self.adapter.beside(self.method.concepts[c])

    def _keep(self, c: int, path: Path, vectors: dict[str, Tensor], **header: str) -> None:
        """The embedding comes after the adapter: its presence says that all is there."""
        self.concept_states[c].keep(path, vectors, **header, **self.adapter.save(path))

    def _complete(self, c: int, vectors: dict[str, Tensor]) -> None:
        """The embedding is written last: its presence says that all is done."""
        self._finish(self.concept_states[c])
        self._keep(c, self.concept_states[c].folder.embedding, vectors)

    def stop(self) -> str:
        """Save the state of all concepts; a line that says where that is."""
        self._save_all()
        step = min(state.step for state in self.concept_states)
        names = ", ".join(state.concept.name for state in self.concept_states)
        return f"stopped after step {step} of {self.schedule.steps} ({names}): the same command goes on from there"

    def _save_all(self) -> None:
        for c, state in enumerate(self.concept_states):
            state.save(self._learned(c), self._optimizers)

    def _norm_and_angle(self, c: int, vectors: dict[str, Tensor]) -> Tensor:
        """Means over the vectors: (2,)."""
        start = self.method.initializer(c)
        norm = torch.cat([rows.norm(dim=-1) for rows in vectors.values()]).mean()
        turned = torch.cat([angle(rows, start[name]) for name, rows in vectors.items()]).mean()
        return torch.stack([norm.double(), turned.double()])

    def _gradient_norm(self, c: int) -> Tensor:
        """Norm of the gradient of each vector, mean over the vectors."""
        rows = [p.grad for p in self.method.concepts[c].parameters() if p.ndim > 1]
        return torch.cat([torch.linalg.vector_norm(g, dim=-1) for g in rows]).mean()

    def _check(self, c: int, loss: float, gradient: float) -> None:
        """Stop before a step that would spoil the vectors; what is on disk then is the last good state of all
        concepts."""
        numbers = (loss, gradient, self.adapter.gradient_norm())
        if all(map(math.isfinite, numbers)) and loss <= self.schedule.max_loss:
            return
        self._save_all()
        state = self.concept_states[c]
        kept = f"the state after step {state.step} is kept in {state.folder.checkpoint}"
        raise DivergedError(
            f"concept '{state.concept.name}' diverged at step {state.step + 1}: loss {loss:.4g}, gradient "
            f"{gradient:.4g}; {kept if state.step else 'nothing was learned before it, so nothing is kept'}"
        )

    def _after_step(
        self, c: int, vectors: dict[str, Tensor], loss: float, gradient: float, shape: Sequence[float]
    ) -> None:
        state, schedule = self.concept_states[c], self.schedule
        norm, turned = shape
        state.step += 1
        state.rows.append((state.step, loss, norm, turned, gradient))
        if self.logger is not None:
            row = {"loss": loss, "norm": norm, "angle": turned, "grad_norm": gradient}
            self.logger.log_metrics({f"{state.concept.name}/{k}": v for k, v in row.items()}, step=state.step)
        if state.step in schedule.snapshots:
            self._keep(c, state.folder.snapshot(state.step), vectors, step=str(state.step))
        self._watch(state, vectors)
        if state.step == schedule.steps:
            state.save(self._learned(c), self._optimizers)
            self._complete(c, vectors)
        elif state.step % schedule.checkpoint_every == 0:
            state.save(self._learned(c), self._optimizers)


def _check_vectors(vectors: dict[str, Tensor], state: ConceptState) -> None:
    """InputError unless each text encoder has as many vectors as a prompt reads: others would never be trained."""
    positions = state.start.positions
    for encoder, rows in vectors.items():
        if len(rows) != positions:
            raise InputError(
                f"method: it has {len(rows)} vectors for concept '{state.concept.name}' in {encoder}, and a prompt "
                f"reads {positions}, as many as the initializer '{state.concept.initializer}' has tokens: give an "
                f"initializer of {len(rows)} tokens, or another method"
            )
