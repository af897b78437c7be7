"""What each layer of a text encoder does with one token of a prompt: its states, and who attends to whom.

The prompt is read without its padding: text encoders are causal, or mask it, so that it reaches no token before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dti_repro.backbones.text_encoder import TextEncoder
from dti_repro.experiments.mechanism.part import WORD


@dataclass(frozen=True)
class Reading:
    """A prompt as a text encoder reads it, with another vector at the placeholder in each of the batch.

    states: (batch, layers + 1, dim), of the placeholder: before the first layer and after each one. attention: (batch,
    layers, heads, tokens, tokens), row: who attends; None if it was not asked for. start, end: the places of the start
    and of the end token, None where the tokenizer adds none.
    """

    place: int
    start: int | None
    end: int | None
    states: Tensor
    attention: Tensor | None

    def relative_updates(self) -> Tensor:
        """Return (batch, layers): the length of what each layer adds to the placeholder's state, over the state's."""
        return self.states.diff(dim=1).norm(dim=-1) / self.states[:, :-1].norm(dim=-1)


@torch.no_grad()
def read_word(encoder: TextEncoder, template: str, vectors: Tensor, attention: bool = False) -> Reading:
    """Read `template` with a placeholder at {} that has each of the vectors (batch, dim). attention: return it, which
    needs a model with eager attention."""
    tokenizer = encoder.tokenizer.tokenizer
    ids, positions = encoder.tokenizer([template.format(WORD)], {WORD: 1})
    tokens = int(encoder.tokenizer.mask(ids).sum())
    if tokens < ids.shape[1] and int(ids[0, tokens]) == tokenizer.eos_token_id:  # which CLIP's tokenizer also pads with
        tokens += 1
    ids, positions = ids[:, :tokens].expand(len(vectors), -1), positions[:, :tokens].expand(len(vectors), -1)
    place = int((positions[0] >= 0).nonzero()[0])
    layers, last = layers_of(encoder.model), []
    handle = layers[-1].register_forward_hook(lambda layer, inputs, output: last.append(output))
    try:
        output = encoder(ids, positions, vectors[:, None], output_hidden_states=True, output_attentions=attention)
    finally:
        handle.remove()
    final = last[0][0] if isinstance(last[0], tuple) else last[0]  # some models list it after their last norm only
    states = torch.stack([*output.hidden_states[: len(layers)], final], dim=1)
    return Reading(
        place,
        0 if tokenizer.bos_token_id is not None and int(ids[0, 0]) == tokenizer.bos_token_id else None,
        tokens - 1 if int(ids[0, -1]) == tokenizer.eos_token_id else None,
        states[:, :, place].float(),
        torch.stack(output.attentions, dim=1) if attention else None,
    )


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a model of transformers: the outermost list with as many modules as its config says."""
    count = model.config.num_hidden_layers
    return next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
