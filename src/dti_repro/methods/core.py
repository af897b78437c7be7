"""CoRe's first stage (Wu et al. 2024): Textual Inversion whose context is that of the class word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.utils.rnn import pad_sequence

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding, Support, Tokens
from dti_repro.config.values import Init, Prompts
from dti_repro.errors import InputError
from dti_repro.methods.base import StepContext
from dti_repro.methods.textual_inversion import TextualInversion


class CoRe(TextualInversion):
    """Free vectors. In a regularization prompt, the other tokens' states and attention are drawn to those that they
    have beside the class word (equations 3 to 5). These are the tokens from the start to the end of the prompt, without
    the word.

    prompts, live_prompts: of things, and of people and animals (None: the same); each sample of a step reads one.
    lambda_emb: weight of 1 - cosine of a token's two states. lambda_attn: weight of the squared difference of the mean
    of a token's attention map, a mean over tokens, layers and samples; above 0 it costs two more passes through the
    denoiser, one of them with a gradient. rescale: (a, b): after each of the steps a + 1 to b, the vectors are scaled
    back to the norm that they had after step a (equation 6); None: never.
    """

    needs: ClassVar[frozenset[Support]] = frozenset({"attention"})

    def __init__(
        self,
        init: Init,
        prompts: Prompts,
        live_prompts: Prompts | None,
        lambda_emb: NonNegativeFloat,
        lambda_attn: NonNegativeFloat,
        rescale: tuple[PositiveInt, PositiveInt] | None,
    ) -> None:
        super().__init__(init, norm_control=None)
        self.prompts = prompts
        self.live_prompts = live_prompts
        self.lambda_emb = lambda_emb
        self.lambda_attn = lambda_attn
        self.rescale = rescale

    def check_extra_prompts(self, tokens: Tokens, class_tokens: Tokens) -> None:
        self._context(tokens, class_tokens)

    def extra_prompts(self, live: bool) -> Sequence[str]:
        return self.live_prompts if live and self.live_prompts else self.prompts

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        vectors = super().parameters_of(initializer, spec)
        device = next(vectors.parameters()).device
        learned = nn.ModuleDict({"v": vectors})
        learned.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))
        learned.register_buffer("norms", torch.zeros(len(vectors), device=device))  # after the first step of `rescale`
        return learned

    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        return dict(self.concepts[concept]["v"].items())

    @torch.no_grad()
    def after_step(self, concepts: Sequence[int], lr: float) -> None:
        first, last = self.rescale or (0, 0)
        for learned in (self.concepts[c] for c in concepts):
            learned.steps += 1
            step = learned.steps.item()
            for k, vectors in enumerate(learned["v"].values()):
                if step == first:
                    learned.norms[k] = vectors.norm()
                elif first < step <= last:
                    vectors.mul_(learned.norms[k] / vectors.norm())

    def regularizer(self, context: StepContext) -> Tensor:
        tokens, mine = context.encode_extra(False)
        class_tokens, other = context.encode_extra(True)
        places, class_places = self._context(tokens, class_tokens)
        known = places >= 0
        count = known.sum(dim=1)
        places, class_places = places.clamp(min=0), class_places.clamp(min=0)

        def at(states: Tensor, where: Tensor) -> Tensor:
            return states.float().gather(1, where[..., None].expand(-1, -1, states.shape[-1]))

        cosine = cosine_similarity(at(mine.hidden, places), at(other.hidden, class_places), dim=-1)
        penalty = self.lambda_emb * ((1 - cosine) * known).sum(dim=1) / count
        if self.lambda_attn > 0:
            with torch.no_grad():
                wanted = [_means(shares).gather(1, class_places) for shares in context.attend(other)]
            found = [_means(shares).gather(1, places) for shares in context.attend(mine)]
            squares = (torch.stack(found) - torch.stack(wanted)).square().mean(dim=0)
            penalty = penalty + self.lambda_attn * (squares * known).sum(dim=1) / count
        return context.mean(penalty)

    def _context(self, tokens: Tokens, class_tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return where each token of the context is beside the word and beside the class word, which may have another
        number of tokens: (samples, tokens) each, -1 where a prompt has fewer. InputError for a prompt that is cut."""
        encoder = next(iter(tokens.ids))
        end = self.spec.encoders[encoder].end
        places, class_places = [], []
        device = tokens.ids[encoder].device
        found = tokens.ids[encoder], tokens.positions[encoder], class_tokens.ids[encoder]
        on_cpu = (rows.cpu() for rows in found)  # a GPU would be waited for at each sample
        for ids, positions, class_ids in zip(*on_cpu, strict=True):
            last, class_last = (int((row == end).int().argmax()) for row in (ids, class_ids))
            places.append((positions[: last + 1] < 0).nonzero().flatten())
            after_the_word = places[-1] > positions.argmax()
            class_places.append(places[-1] + after_the_word * (class_last - last))
            if not torch.equal(ids[places[-1]], class_ids[class_places[-1]]):
                raise InputError("method.prompts has a prompt that is too long for the text encoder: shorten it")
        rows = (pad_sequence(part, batch_first=True, padding_value=-1) for part in (places, class_places))
        return tuple(part.to(device) for part in rows)


def _means(shares: Tensor) -> Tensor:
    """Return the mean share of each token: attention maps (samples, heads, queries, length) -> (samples, length)."""
    return shares.float().mean(dim=(1, 2))
