"""What a training with an adapter minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

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


class DCO(Objective):
    """-log sigmoid(-beta (L - L_reference)) (Lee et al. 2024): the model becomes better than without the adapter, and
    the better it is already, the smaller is the gradient.

    L is the mean over the samples of a pass through the denoiser, as in the published code of Lee et al. and of Kim et
    al. L_reference is that of the same samples without the adapter, and has no gradient. prompt: what the reference
    reads, `class` for the class word or `word` for the learned word.
    """

    def __init__(self, beta: PositiveFloat, prompt: Literal["class", "word"]) -> None:
        self.beta = beta
        self.class_word = prompt == "class"

    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        return -logsigmoid(-self.beta * (loss - reference(self.class_word)))
