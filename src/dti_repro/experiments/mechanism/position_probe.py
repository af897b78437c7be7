"""Whether a token's position can still be read after the first LayerNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dti_repro.backbones.text_encoder import TextEncoder
from dti_repro.experiments.mechanism.states import layers_of

WHOLE = 1 << 14  # pairs of token and position up to which a step of the training has all of them
SAMPLE = 1 << 12  # pairs in a step where there are more
CHUNK = 128  # tokens that are tested at once, each at all positions
TESTED = 1000  # held-out tokens at most
STEPS = 300


class PositionProbe:
    """A two-layer perceptron (dim-dim-positions, ReLU) that reads the position from LayerNorm1(token + position), as in
    the paper's positional analysis.

    It is trained on four fifths of the vocabulary at its own norms, at all positions; `held_out` are the others, 1000
    at most. Of a vocabulary with more than 16,384 pairs, each step draws 4,096.
    """

    def __init__(self, encoder: TextEncoder, seed: int) -> None:
        self.places, self.normalise = added_positions(encoder.model)
        table = encoder.table.detach().float()
        table = table[table.any(dim=-1)]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(table), generator=generator)
        self.held_out = table[order[: len(table) // 5][:TESTED]]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            width = table.shape[1]
            self.network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(self.places)))
        self._train(table[order[len(table) // 5 :]], generator)

    def accuracy(self, tokens: Tensor) -> Tensor:
        """Return (positions,): the share of the tokens (tokens, dim) whose position is read, at each position."""
        target = torch.arange(len(self.places))
        with torch.no_grad():
            right = [
                self.network(self.normalise(part[:, None] + self.places[None])).argmax(-1) == target
                for part in tokens.split(CHUNK)
            ]
        return torch.cat(right).float().mean(dim=0)

    def _train(self, seen: Tensor, generator: torch.Generator) -> None:
        pairs = len(seen) * len(self.places)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        chosen = torch.arange(pairs)
        for _ in range(STEPS):
            if pairs > WHOLE:
                chosen = torch.randint(pairs, (SAMPLE,), generator=generator)
            token, place = chosen // len(self.places), chosen % len(self.places)
            with torch.no_grad():
                inputs = self.normalise(seen[token] + self.places[place])
            optimizer.zero_grad()
            F.cross_entropy(self.network(inputs), place).backward()
            optimizer.step()


def added_positions(model: nn.Module) -> tuple[Tensor, nn.Module] | None:
    """Return the vectors (positions, dim) that a text encoder adds to its tokens, as CLIP's does, and the first layer's
    first LayerNorm; None if one is missing."""
    places = next((part for name, part in model.named_modules() if name.endswith("position_embedding")), None)
    normalise = getattr(layers_of(model)[0], "layer_norm1", None)
    return None if places is None or normalise is None else (places.weight.detach().float(), normalise)
