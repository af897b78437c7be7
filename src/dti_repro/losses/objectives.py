"""What a training with an adapter minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

Reference = Callable[[bool], Tensor]
"""(class_word) -> (concepts,) the loss of the same samples without the adapter, at the learned word or, if class_word,
at the class word in its place."""


class Objective(ABC):
    """A function of the losses with and without the adapter."""

    @abstractmethod
    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        """loss (concepts,), each the mean of a concept's samples -> (concepts,). `reference` costs another pass."""


class DiffusionLoss(Objective):
    """As without an adapter; there is no reference pass."""

    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        return loss


class DCO(Objective):
    """-log sigmoid(-beta (L - L_reference)): the adapted model is to become better than the model without the adapter,
    and the less is gained the better it already is.

    L is the mean over the samples of a pass through the denoiser, as in the published code of Lee et al. and of Kim et
    al.; L_reference is that of the same samples, without gradient. prompt: what the reference reads, `class` for the
    class word in the word's place or `word` for the learned word.
    """

    def __init__(self, beta: PositiveFloat, prompt: Literal["class", "word"]) -> None:
        self.beta = beta
        self.class_word = prompt == "class"

    def __call__(self, loss: Tensor, reference: Reference) -> Tensor:
        return -logsigmoid(-self.beta * (loss - reference(self.class_word)))
