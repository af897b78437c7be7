"""Regularized methods against the released codes' arithmetic, written out in loops."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from dti_repro.backbones.base import Tokens
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.config import build
from dti_repro.data.concept import Folder
from dti_repro.data.prompts import SETS, load_prompts
from dti_repro.errors import InputError
from dti_repro.methods.attn_dreambooth import AttnDreamBooth
from dti_repro.methods.base import StepContext, TokenMethod
from dti_repro.methods.core import CoRe
from dti_repro.toybox.language import WORDS
from dti_repro.training import trainer
from dti_repro.training.train_missing import train, train_missing
from tests.crash import assert_same, stop_after

Training = Callable[..., DictConfig]
LENGTH = 12


def random_maps(samples: int, length: int = LENGTH, seed: int = 0) -> list[Tensor]:
    """Attention maps of three layers with other numbers of heads: each sums to 1 over the prompt."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, 2 + k, 4, length, generator=random).softmax(dim=-1) for k in range(3)]


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
    unused = {"conditioning": None, "encode_class": None, "encode_extra": None, "attend": None}
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


def test_core_is_the_papers_sum_over_the_other_tokens(training: Training, checkpoint: Path) -> None:
    """A word of one vector beside a class word of two tokens; of the attention, the code's sum over a batch of 6."""
    backbone = StableDiffusion("toybox", str(checkpoint), None)
    method = build(training("method=core", "method.lambda_emb=0.5").method, TokenMethod)
    method.initialise([backbone.embed_initializer("ann", "cat", 0)], backbone.spec)
    texts = ["a {} on the grass", "in the snow , a {}", "the {} left of a ball"] * 2
    tokens = backbone.tokenize([text.format("<ann>") for text in texts], {"<ann>": 1})
    class_tokens = backbone.tokenize([text.format("red car") for text in texts], {})
    learned = backbone.encode_text(tokens, method(torch.zeros(6, dtype=torch.long)))
    reference = backbone.encode_text(class_tokens)
    length = learned.hidden.shape[1]
    maps = {id(learned): random_maps(6, length=length), id(reference): random_maps(6, length=length, seed=1)}
    cosine, attention = [], 0.0
    for k, text in enumerate(texts):
        before = 1 + len(text.split("{}")[0].split())  # with the start token
        behind = 1 + len(text.split("{}")[1].split())  # with the end token
        pairs = [(i, i) for i in range(before)] + [(before + 1 + i, before + 2 + i) for i in range(behind)]
        states = [(learned.hidden[k, i], reference.hidden[k, j]) for i, j in pairs]
        cosine.append(sum(1 - a @ b / (a.norm() * b.norm()) for a, b in states) / len(pairs))
        for mine, other in zip(maps[id(learned)], maps[id(reference)], strict=True):
            a, b = mine[k].mean(dim=(0, 1)), other[k].mean(dim=(0, 1))
            attention += 0.05 * sum((a[i] - b[j]) ** 2 for i, j in pairs) / len(pairs) / len(maps[id(learned)])
    context = StepContext(
        [0],
        tokens=tokens,
        conditioning=learned,
        attention=[],
        encode_class=lambda: reference,
        encode_extra=lambda class_word: (class_tokens, reference) if class_word else (tokens, learned),
        attend=lambda conditioning: maps[id(conditioning)],
    )
    expected = 0.5 * sum(cosine) / 6 + attention
    torch.testing.assert_close(method.regularizer(context), expected[None], rtol=1e-4, atol=0)


def test_core_costs_a_word_nothing_that_is_the_class_word(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []
    regularizer = CoRe.regularizer
    spy = lambda self, context: (found.append(regularizer(self, context)), found[-1])[1]  # noqa: E731
    monkeypatch.setattr(CoRe, "regularizer", spy)
    train(training("method=core", "trainer.steps=2", "method.lambda_emb=100", "method.lambda_attn=1e6"))
    assert found[0].item() == pytest.approx(0, abs=1e-4)
    assert found[1].item() > 1e-3


def test_core_keeps_the_norm_between_two_steps(training: Training, tmp_path: Path, monkeypatch: Any) -> None:
    """Also where the training stops between them."""
    keys = ["method=core", "method.rescale=[2,5]", "trainer.checkpoint_every=3"]
    whole = train(training(*keys, f"runs={tmp_path / 'whole'}"))[0]
    norms = [float(row["norm"]) for row in csv.DictReader(whole.log.open())]
    assert norms[1:5] == pytest.approx([norms[1]] * 4, rel=1e-6)
    assert abs(norms[0] / norms[1] - 1) > 1e-5 < abs(norms[5] / norms[1] - 1)
    stop_after(monkeypatch, step=4)
    with pytest.raises(MemoryError):
        train(training(*keys))
    monkeypatch.undo()
    assert_same(train(training(*keys))[0], whole)


def test_core_has_a_hundred_prompts_of_a_kind_that_no_table_asks(training: Training) -> None:
    asked = {
        prompt.template
        for file in SETS.glob("*.yaml")
        for kind in (load_prompts(file.stem).prompts, load_prompts(file.stem).live)
        for prompt in kind
    }
    toybox = build(training("method=core").method, TokenMethod)
    general = build(training("method=core", "templates=object").method, TokenMethod)
    assert general.extra_prompts(live=True) != general.extra_prompts(live=False)
    for prompts in (toybox.prompts, general.prompts, general.live_prompts):
        assert len(set(prompts)) == 100
        assert not asked & set(prompts)
    assert {word for prompt in toybox.extra_prompts(live=True) for word in prompt.replace("{}", "").split()} <= {*WORDS}
    with pytest.raises(InputError, match=r"method\.prompts is null: a list of prompts"):
        train(training("method=core", "templates=style"))


@pytest.mark.parametrize("method", ["attn_dreambooth", "core"])
def test_attention_maps_need_a_backbone_that_keeps_them(method: str, training: Training) -> None:
    with pytest.raises(InputError, match=r"backbone\.checkpointing=false"):
        train(training(f"method={method}", "backbone.checkpointing=true"))


@pytest.mark.parametrize(
    "keys",
    [
        ["method=attn_dreambooth"],
        ["method=core"],
        ["adapter=lora", "adapter/objective=dco", "adapter.objective.prompt=class", "trainer.pack=1"],
    ],
    ids=" ".join,
)
def test_a_training_with_another_class_word_is_another_training(
    keys: list[str], training: Training, tmp_path: Path
) -> None:
    """Where the class word is read in training; else it is for prompts only, and can be corrected afterwards."""
    photos = tmp_path / "rex"
    photos.mkdir()
    Image.new("RGB", (16, 16), "red").save(photos / "0.png")

    def trained(word: str, *more: str) -> int:
        return train_missing(
            training("trainer.steps=1", *more), Folder(str(photos), None, "dog", class_word=word).load()
        )[1]

    assert trained("dog", *keys) == 1
    with pytest.raises(InputError, match=r"changed: class_word"):
        trained("cat", *keys)
    assert trained("dog", "method=ti") == 1
    assert trained("cat", "method=ti") == 0
