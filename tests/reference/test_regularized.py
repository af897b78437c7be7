"""Regularized methods against the released codes' arithmetic, written out in loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from dti_repro.backbones.base import Tokens
from dti_repro.backbones.load import load_backbone
from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.methods.attn_dreambooth import AttnDreamBooth
from dti_repro.methods.base import StepContext, TokenMethod
from dti_repro.training import trainer
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]
LENGTH = 12


def random_maps(samples: int, layers: int = 3) -> list[Tensor]:
    """Attention maps of layers with other numbers of heads and queries: each sums to 1 over the prompt."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(samples, 2 + k, 4, LENGTH, generator=random).softmax(dim=-1) for k in range(layers)]


def word_at(starts: list[int], vectors: int) -> Tokens:
    """Prompts whose words begin at these positions."""
    positions = torch.full((len(starts), LENGTH), -1)
    for row, start in zip(positions, starts, strict=True):
        row[start : start + vectors] = torch.arange(vectors)
    return Tokens({"text_encoder": torch.zeros_like(positions)}, {"text_encoder": positions})


def test_attn_dreambooth_is_the_released_codes_sum(training: Training) -> None:
    """.1 times the squared difference, a mean over a word's vectors, a sum over the batch of 8, a mean over layers."""
    method = build(training("method=attn_dreambooth").method, TokenMethod)
    starts, maps = [5, 5, 3, 4, 5, 2, 5, 3], random_maps(8)
    expected = 0.0
    for layer in maps:
        for sample, start in zip(layer, starts, strict=True):
            mean = sample.mean(dim=(0, 1))
            expected += 0.1 * sum((mean[start + k] - mean[start + 2]) ** 2 for k in range(2)) / 2
    expected = expected / len(maps)
    unused = {"class_tokens": None, "conditioning": None, "encode_class": None, "encode_extra": None, "attend": None}
    found = method.regularizer(StepContext([0], word_at(starts, 2), attention=maps, **unused))
    torch.testing.assert_close(found, expected[None], rtol=1e-5, atol=0)


def test_attn_dreambooth_reads_the_class_word_behind_the_word(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = training("method=attn_dreambooth", "trainer.steps=1")
    seen: list[Tokens] = []
    regularizer = AttnDreamBooth.regularizer
    spy = lambda self, context: (seen.append(context.tokens), regularizer(self, context))[1]  # noqa: E731
    monkeypatch.setattr(AttnDreamBooth, "regularizer", spy)
    train(cfg)
    backbone = load_backbone(cfg.backbone, "cpu")
    (wanted,) = backbone.tokenize(["a photo of a <ann> cat"], {"<ann>": 1}).ids.values()
    for ids in next(iter(seen[0].ids.values())):
        place = (wanted[0] >= backbone.text_encoders["text_encoder"].tokenizer.vocabulary).nonzero().item()
        assert torch.equal(ids[place + 1 :], wanted[0][place + 1 :])


def test_a_method_refuses_templates_before_a_model_is_loaded(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "load_backbone", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(InputError, match=r"'a photo of a \{\}' has no '\{\} \{class\}'.*templates=with_class"):
        train(training("method=attn_dreambooth", "templates=toybox"))
