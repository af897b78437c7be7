"""AttnDreamBooth's first stage (Pang et al. 2024): Textual Inversion with regularized attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from dti_repro.config.values import Init
from dti_repro.errors import InputError
from dti_repro.methods.base import StepContext
from dti_repro.methods.textual_inversion import TextualInversion

WORD_AND_CLASS = "{} {class}"


class AttnDreamBooth(TextualInversion):
    """Free vectors in prompts in which the class word follows: "a photo of a <rex> dog". In each cross-attention layer,
    the mean of a vector's attention map is drawn to that of the class word's first token.

    weight: of the squared difference, which is a mean over the word's vectors, the layers and the samples. Both maps
    have a gradient.
    """

    records_attention: ClassVar[bool] = True

    def __init__(self, init: Init, weight: NonNegativeFloat) -> None:
        super().__init__(init, norm_control=None)
        self.weight = weight

    def check_templates(self, templates: Sequence[str]) -> None:
        if wrong := [template for template in templates if WORD_AND_CLASS not in template]:
            raise InputError(
                f"prompt template '{wrong[0]}' has no '{WORD_AND_CLASS}', and the method compares the word with the "
                "class word after it: use templates=with_class"
            )

    def regularizer(self, context: StepContext) -> Tensor:
        is_word = next(iter(context.tokens.positions.values())) >= 0
        count = is_word.sum(dim=1)
        after = is_word.int().argmax(dim=1) + count
        penalties = []
        for shares in context.attention:
            mean = shares.float().mean(dim=(1, 2))
            difference = mean - mean.gather(1, after[:, None])
            penalties.append((difference.square() * is_word).sum(dim=1) / count)
        return self.weight * context.mean(torch.stack(penalties).mean(dim=0))
