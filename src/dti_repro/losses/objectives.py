"""What a training with an adapter minimises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid

from dti_repro.errors import InputError

Reference = Callable[[bool], Tensor]
"""reference(class_word) is the loss (concepts,) of the same samples without the adapter: with the learned word or, if
class_word, with the class word in its place."""


class Objective(ABC):
    """A function of the losses with and without the adapter."""

    @abstractmethod
    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        """Return what is minimised, (concepts,). loss: (concepts,), each the mean of a concept's samples. A call of
        `reference` costs another pass."""


class DiffusionLoss(Objective):
    """The same loss as without an adapter."""

    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        return loss


PROMPTS = {"class": True, "word": False}


class DCO(Objective):
    """-log sigmoid(-beta (L - L_reference)) (Lee et al. 2024): the model becomes better than without the adapter, and
    the better it is already, the smaller is the gradient.

    L is the mean over the samples of a pass through the denoiser, as in the published code of Lee et al. and of Kim et
    al. L_reference is that of the same samples without the adapter, and has no gradient. prompt: what the reference
    reads, `class` for the class word or `word` for the learned word.
    """

    def __init__(self, beta: float, prompt: str) -> None:
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not (math.isfinite(beta) and beta > 0):
            raise InputError(f"adapter.objective.beta is {beta}: a number above 0 is needed")
        if prompt not in PROMPTS:
            raise InputError(f"adapter.objective.prompt '{prompt}' is neither {' nor '.join(PROMPTS)}")
        self.beta = float(beta)
        self.class_word = PROMPTS[prompt]

    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        return -logsigmoid(-self.beta * (loss - reference(self.class_word)))
