"""The one training loop: a frozen backbone, a method's vectors, an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.backbones.base import Conditioning, Tokens, TokenVectors
from dti_repro.backbones.diffusers_base import DiffusersBackbone
from dti_repro.errors import DivergedError
from dti_repro.methods.base import SharedVectors, StepContext, TokenMethod
from dti_repro.optim.schedule import Schedule
from dti_repro.optim.sphere import angle
from dti_repro.training.concept_state import ConceptState
from dti_repro.training.datamodule import Batch, by_shape


class InversionModule(pl.LightningModule):
    """Takes a step of all unfinished concepts of a pack at once; each is at its own step.

    The loss is the mean over a concept's samples, then the sum over concepts, plus the priors: a packed step
    is the same as separate ones. (A mean over the whole batch would not be: kappa acts before the gradient is
    normalised.)
    """

    def __init__(
        self,
        backbone: DiffusersBackbone,
        method: TokenMethod,
        states: Sequence[ConceptState],
        optimizer: Callable[..., Optimizer],
        adapter: Adapter,
        settings: DictConfig,
        schedule: Schedule,
        method_config: Mapping[str, Any],
    ) -> None:
        """states: of the method's concepts, in their order. optimizer(params=groups) makes the configured optimizer.
        adapter: attached to the backbone. settings: as in conf/trainer. schedule: of the configured optimizer.
        method_config: what the method was built from.
        """
        super().__init__()
        # Manual optimization: a step has a backward pass for each concept (or one for all) and each accumulated part,
        # and its numbers are checked before the optimizer steps.
        self.automatic_optimization = False
        vars(self)["backbone"] = backbone  # not a submodule: Lightning moves those to the CPU after `fit`
        self.method = method
        self.states = list(states)
        self.adapter = adapter
        self.settings = settings
        self.method_config = method_config
        self.last_loss = math.nan  # mean over the concepts
        self._optimizer = optimizer
        self._schedule = schedule
        self._produced: list[tuple[Tensor, TokenVectors]] = []  # of this step, where the parameters are no vectors
        self._fuse = backbone.device.type != "cpu" if settings.fuse == "auto" else settings.fuse

    def configure_optimizers(self) -> list[Optimizer]:
        groups = self.method.param_groups()
        vectors = self._schedule.groups([group for group in groups if "lr" not in group], self.method.concepts)
        others = [group for group in groups if "lr" in group]
        return [self._optimizer(params=vectors), *([Adam(others)] if others else []), *self.adapter.optimizers()]

    def learned(self, c: int) -> nn.Module:
        """Return all parameters that are learned for a concept."""
        return self.adapter.with_weights(self.method.concepts[c])

    def training_step(self, batch: dict[int, Batch], batch_idx: int) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses = torch.zeros(len(self.states), device=self.device)
        self._produced.clear()
        groups = by_shape(batch) if self._fuse else [[c] for c in batch]
        size, parts = self.settings.batch, self.settings.accumulate
        for k in range(parts):
            part = slice(k * size, (k + 1) * size)
            for concepts in groups:
                loss, objective = self._losses({c: batch[c].part(part) for c in concepts})
                total = objective.sum() / parts
                if k == 0:
                    total = total + self.method.prior()[concepts].sum()
                self.manual_backward(total)
                losses[concepts] += loss.detach() / parts
        gradients = torch.stack([self._gradient_norm(c) for c in batch])
        before = torch.stack([losses[list(batch)], gradients]).T.tolist()
        for c, (loss, gradient) in zip(batch, before, strict=True):
            self._check(self.states[c], loss, gradient)
        self._schedule.apply(optimizers[0], [state.step for state in self.states])
        for optimizer in optimizers:
            optimizer.step()
        for c in batch:
            self.method.after_step([c], self._schedule.rate(optimizers[0], self.states[c].step))
        after = torch.stack([self._norm_and_angle(c) for c in batch]).tolist()
        for c, (loss, gradient), (norm, turned) in zip(batch, before, after, strict=True):
            evaluated = [self._evaluate(c)] if self.settings.stop else []
            self._add_row(self.states[c], loss, norm, turned, gradient, *evaluated)
        self.last_loss = sum(loss for loss, _ in before) / len(batch)

    def _losses(self, pack: dict[int, Batch]) -> tuple[Tensor, Tensor]:
        """Return each concept's mean loss, and its objective, which is minimised: (concepts,) both."""
        data = {c: self.states[c].dataset for c in pack}
        samples = torch.tensor(list(pack)).repeat_interleave(self.settings.batch)
        latents = torch.cat([data[c].latents.sample(batch.image, batch.latent_noise) for c, batch in pack.items()])
        noise = torch.cat([batch.noise for batch in pack.values()])
        t = torch.cat([batch.t for batch in pack.values()])
        chance = torch.cat([batch.chance for batch in pack.values()])
        tokens, class_tokens = (
            Tokens.concat([getattr(data[c], kind)[batch.template] for c, batch in pack.items()])
            for kind in ("tokens", "class_tokens")
        )

        def encoded(tokens: Tokens, class_word: bool) -> Conditioning:
            if class_word:
                return self.backbone.encode_text(tokens)
            vectors = self.method(samples, t, chance)
            if torch.is_grad_enabled() and not isinstance(self.method, SharedVectors):
                for rows in vectors.values():
                    rows.retain_grad()
                self._produced.append((samples, vectors))
            return self.backbone.encode_text(tokens, vectors)

        def mean_loss(class_word: bool) -> Tensor:
            conditioning = encoded(class_tokens if class_word else tokens, class_word)
            return self._mean_loss(pack, latents, noise, t, conditioning)

        def attend(conditioning: Conditioning) -> list[Tensor]:
            with self.backbone.attention_maps() as maps:
                self._mean_loss(pack, latents, noise, t, conditioning)
            return maps

        def encode_extra(class_word: bool) -> tuple[Tokens, Conditioning]:
            kind = "extra_class_tokens" if class_word else "extra_tokens"
            extra = Tokens.concat([getattr(data[c], kind)[batch.extra] for c, batch in pack.items()])
            with torch.set_grad_enabled(not class_word):
                return extra, encoded(extra, class_word)

        def encode_class() -> Conditioning:
            with torch.no_grad():
                return encoded(class_tokens, class_word=True)

        recorded = self.backbone.attention_maps() if self.method.records_attention else nullcontext([])
        conditioning = encoded(tokens, class_word=False)
        with recorded as attention:
            loss = self._mean_loss(pack, latents, noise, t, conditioning)
        objective = self.adapter.objective(loss, mean_loss)
        context = StepContext(
            list(pack), tokens, class_tokens, conditioning, attention, encode_class, encode_extra, attend
        )
        regularizer = self.method.regularizer(context)
        return loss, objective if regularizer is None else objective + regularizer

    def _mean_loss(
        self, pack: dict[int, Batch], latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning
    ) -> Tensor:
        data = {c: self.states[c].dataset.latents for c in pack}
        sizes = torch.cat([data[c].sizes[batch.image] for c, batch in pack.items()])
        weights = [data[c].weight(batch.image) for c, batch in pack.items()]
        weight = None if weights[0] is None else torch.cat(weights)
        loss = self.backbone.loss(latents, noise, t, replace(conditioning, sizes=sizes), weight)
        return loss.view(len(pack), self.settings.batch).mean(dim=1)

    @torch.no_grad()
    def _evaluate(self, c: int) -> float:
        """Return the loss of a concept on its fixed batch."""
        data = self.states[c].dataset
        batch = data.evaluation(self.settings.stop_batch).to(self.device)
        vectors = self.method(torch.full((len(batch.t),), c), batch.t)
        conditioning = self.backbone.encode_text(data.tokens[batch.template], vectors)
        latents = data.latents.sample(batch.image, batch.latent_noise)
        given = replace(conditioning, sizes=data.latents.sizes[batch.image])
        weight = data.latents.weight(batch.image)
        return self.backbone.loss(latents, batch.noise, batch.t, given, weight).mean().item()

    def _gradient_norm(self, c: int) -> Tensor:
        """Return the norm of the gradient of each vector, mean over the vectors: of the parameter where the parameters
        are vectors, else of what one vector in the place of all that the method made in this step would get."""
        if isinstance(self.method, SharedVectors):
            rows = [p.grad for p in self.method.concepts[c].parameters() if p.ndim > 1]
        else:
            width = {name: row.shape[-1] for name, row in self.method.initializers[c].rows.items()}
            rows = [
                sum(vectors[name].grad[samples == c].sum(dim=(0, 1)) for samples, vectors in self._produced)[:, :dim]
                for name, dim in width.items()
            ]
        return torch.cat([torch.linalg.vector_norm(g, dim=-1).flatten() for g in rows]).mean()

    def _norm_and_angle(self, c: int) -> Tensor:
        """Return the vectors' norm and angle to the initializer, means over the vectors: (2,)."""
        initializer = self.method.initializers[c].rows
        if isinstance(self.method, SharedVectors):
            vectors = self.method.vectors(c)
        else:  # those that the step was taken with: to make others for the log alone would cost a part of a step
            vectors = {}
            for name, start in initializer.items():
                made = torch.cat([rows[name].detach()[samples == c] for samples, rows in self._produced])
                vectors[name] = made[..., : len(start), : start.shape[-1]].float()
        norm = torch.cat([rows.norm(dim=-1).flatten() for rows in vectors.values()]).mean()
        turned = torch.cat([angle(rows, initializer[name]).flatten() for name, rows in vectors.items()]).mean()
        return torch.stack([norm.double(), turned.double()])

    def _check(self, state: ConceptState, loss: float, gradient: float) -> None:
        """Raise DivergedError before a step that would spoil the vectors."""
        if all(map(math.isfinite, (loss, gradient, self.adapter.gradient_norm()))) and loss <= self.settings.max_loss:
            return
        kept = f"the state after step {state.step} is kept in {state.folder.checkpoint}"
        raise DivergedError(
            f"concept '{state.name}' diverged at step {state.step + 1}: loss {loss:.4g}, gradient "
            f"{gradient:.4g}; {kept if state.step else 'nothing was learned before it, so nothing is kept'}"
        )

    def _add_row(self, state: ConceptState, *row: float) -> None:
        state.add_row(*row)
        if self.logger is not None:
            metrics = {f"{state.name}/{key}": value for key, value in zip(state.columns[1:], row, strict=True)}
            self.logger.log_metrics(metrics, step=state.step)
