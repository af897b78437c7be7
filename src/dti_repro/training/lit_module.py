"""The one training loop: a frozen backbone, a method's vectors, an optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from dti_repro.adapters.base import Adapter
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import Conditioning, Tokens, TokenVectors
from dti_repro.config import build
from dti_repro.errors import DivergedError
from dti_repro.methods.base import SharedVectors, StepContext, TokenMethod
from dti_repro.optim.schedule import split
from dti_repro.optim.sphere import angle
from dti_repro.training.batches import Batch, PackDataset, by_shape
from dti_repro.training.concept_state import ConceptState


class InversionModule(pl.LightningModule):
    """Takes a step of all unfinished concepts of a pack at once; each is at its own step.

    The loss is the mean over a concept's samples, then the sum over concepts, plus the priors: a packed step
    is the same as separate ones. (A mean over the whole batch would not be: kappa acts before the gradient is
    normalised.)
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        method: TokenMethod,
        states: Sequence[ConceptState],
        cfg: DictConfig,
    ) -> None:
        """adapter: attached to the backbone. states: of the method's concepts, in their order. cfg: of the training."""
        super().__init__()
        # Manual optimization: a step has a backward pass for each concept (or one for all) and each accumulated part,
        # and its numbers are checked before the optimizer steps.
        self.automatic_optimization = False
        vars(self)["backbone"] = backbone  # not a submodule: Lightning moves those to the CPU after `fit`
        self.adapter = adapter
        self.method = method
        self.method_config = OmegaConf.to_container(cfg.method, resolve=True)
        self.states = list(states)
        self.settings = cfg.trainer
        self.last_loss = math.nan  # mean over the concepts
        self._optim, self._schedule = split(cfg.optim, cfg.trainer.steps)
        # Where the parameters are no vectors: concept -> what the method made in this step, and which samples are its.
        self._produced: defaultdict[int, list[tuple[Tensor, TokenVectors]]] = defaultdict(list)
        self._fuse = backbone.device.type != "cpu" if cfg.trainer.fuse == "auto" else cfg.trainer.fuse

    def train_dataloader(self) -> DataLoader[dict[int, Batch]]:
        return DataLoader(PackDataset(self.states), batch_size=None)

    def configure_optimizers(self) -> list[Optimizer]:
        groups = self.method.param_groups()
        vectors = self._schedule.groups([group for group in groups if "lr" not in group], self.method.concepts)
        others = [group for group in groups if "lr" in group]
        optimizer = build(self._optim, Optimizer, "optim", params=vectors)
        return [optimizer, *([Adam(others)] if others else []), *self.adapter.optimizers()]

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
                    total = total + sum(map(self.method.prior_of, concepts))
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
            row = [loss, norm, turned, gradient, *([self._evaluate(c)] if self.settings.stop else [])]
            self.states[c].add_row(*row)
            if self.logger is not None:
                names = (f"{self.states[c].name}/{column}" for column in self.states[c].columns[1:])
                self.logger.log_metrics(dict(zip(names, row, strict=True)), step=self.states[c].step)
        self.last_loss = sum(loss for loss, _ in before) / len(batch)

    def _losses(self, pack: dict[int, Batch]) -> tuple[Tensor, Tensor]:
        """Return each concept's mean loss, and its objective, which is minimised: (concepts,) both."""
        data = {c: self.states[c].dataset for c in pack}
        samples = torch.tensor(list(pack)).repeat_interleave(self.settings.batch)
        t = torch.cat([batch.t for batch in pack.values()])
        chance = torch.cat([batch.chance for batch in pack.values()])
        tokens = Tokens.concat([data[c].tokens[batch.template] for c, batch in pack.items()])
        tokens = tokens.with_zeros(torch.cat([batch.zeros for batch in pack.values()]))
        class_tokens = Tokens.concat([data[c].class_tokens[batch.template] for c, batch in pack.items()])

        def encode(tokens: Tokens) -> Conditioning:
            vectors = self.method(samples, t, chance)
            if torch.is_grad_enabled() and not isinstance(self.method, SharedVectors):
                for rows in vectors.values():
                    rows.retain_grad()
                for c in pack:
                    self._produced[c].append((samples == c, vectors))
            return self.backbone.encode_text(tokens, vectors)

        def mean_loss(conditioning: Conditioning) -> Tensor:
            return self._sample_losses(pack, conditioning).view(len(pack), -1).mean(dim=1)

        @torch.no_grad()
        def encode_class(tokens: Tokens = class_tokens) -> Conditioning:
            return self.backbone.encode_text(tokens)

        def reference(class_word: bool) -> Tensor:
            return mean_loss(encode_class() if class_word else encode(tokens))

        def attend(conditioning: Conditioning) -> list[Tensor]:
            with self.backbone.attention_maps() as maps:
                mean_loss(conditioning)
            return maps

        def encode_extra(class_word: bool) -> tuple[Tokens, Conditioning]:
            all_extra = {c: data[c].extra_class_tokens if class_word else data[c].extra_tokens for c in pack}
            extra = Tokens.concat([all_extra[c][batch.extra] for c, batch in pack.items()])
            return extra, encode_class(extra) if class_word else encode(extra)

        recorded = self.backbone.attention_maps() if self.method.records_attention else nullcontext([])
        if self._fuse and isinstance(self.method, SharedVectors):  # samples of one prompt then have the same states
            first, of_sample = _distinct_prompts(pack)
            conditioning = self.backbone.encode_text(tokens[first], self.method(samples[first]))[of_sample]
        else:
            conditioning = encode(tokens)
        with recorded as attention:
            loss = mean_loss(conditioning)
        objective = self.adapter.objective(loss, reference)
        context = StepContext(list(pack), tokens, conditioning, attention, encode_class, encode_extra, attend)
        regularizer = self.method.regularizer(context)
        return loss, objective if regularizer is None else objective + regularizer

    def _sample_losses(self, pack: Mapping[int, Batch], conditioning: Conditioning) -> Tensor:
        """Return the loss of each sample, those of one concept after another."""
        views = {c: self.states[c].dataset.latents for c in pack}
        latents = torch.cat([views[c].sample(batch.image, batch.latent_noise) for c, batch in pack.items()])
        noise = torch.cat([batch.noise for batch in pack.values()])
        t = torch.cat([batch.t for batch in pack.values()])
        sizes = torch.cat([views[c].sizes[batch.image] for c, batch in pack.items()])
        weights = [views[c].weight(batch.image) for c, batch in pack.items()]
        weight = None if weights[0] is None else torch.cat(weights)
        return self.backbone.loss(latents, noise, t, replace(conditioning, sizes=sizes), weight)

    @torch.no_grad()
    def _evaluate(self, c: int) -> float:
        """Return the loss of a concept on its fixed batch."""
        data = self.states[c].dataset
        batch = data.evaluation(self.settings.stop_batch).to(self.device)
        vectors = self.method(torch.full((len(batch.t),), c), batch.t)
        conditioning = self.backbone.encode_text(data.tokens[batch.template], vectors)
        return self._sample_losses({c: batch}, conditioning).mean().item()

    def _gradient_norm(self, c: int) -> Tensor:
        """Return the norm of each vector's gradient, mean over the vectors. Where the parameters are not the vectors, a
        vector's gradient is the sum over all that the method made of it in this step."""
        if isinstance(self.method, SharedVectors):
            gradients = [p.grad for p in self.method.concepts[c].parameters() if p.grad is not None]
            # Beside rows, what has fewer dimensions is no vector, such as a norm that is learned.
            rows = [g for g in gradients if g.ndim > 1] or [g.atleast_2d() for g in gradients]
        else:
            rows = [
                sum(rows[name].grad[mine].sum(dim=(0, 1)) for mine, rows in self._produced[c])[
                    : len(start), : start.shape[-1]
                ]
                for name, start in self.method.initializers[c].rows.items()
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
                made = torch.cat([rows[name].detach()[mine] for mine, rows in self._produced[c]])
                vectors[name] = made[..., : len(start), : start.shape[-1]].float()
        norm = torch.cat([rows.norm(dim=-1).flatten() for rows in vectors.values()]).mean()
        turned = torch.cat([angle(rows, initializer[name]).flatten() for name, rows in vectors.items()]).mean()
        return torch.stack([norm.double(), turned.double()])

    def _check(self, state: ConceptState, loss: float, gradient: float) -> None:
        """Raise DivergedError before a step that would spoil the vectors."""
        if all(map(math.isfinite, (loss, gradient, self.adapter.gradient_norm()))) and loss <= self.settings.max_loss:
            return
        kept = f"the state after step {state.step} is kept in {state.checkpoint}"
        raise DivergedError(
            f"concept '{state.name}' diverged at step {state.step + 1}: loss {loss:.4g}, gradient "
            f"{gradient:.4g}; {kept if state.step else 'nothing was learned before it, so nothing is kept'}",
            state.name,
        )


def _distinct_prompts(pack: Mapping[int, Batch]) -> tuple[list[int], list[int]]:
    """Return a sample of each prompt that the pack has, and for each sample the place of its prompt among these."""
    prompts = [
        (c, *prompt)
        for c, batch in pack.items()
        for prompt in zip(batch.template.tolist(), batch.zeros.tolist(), strict=True)
    ]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    return [prompts.index(prompt) for prompt in places], [places[prompt] for prompt in prompts]
