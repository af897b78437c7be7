"""World 2: its words each mean one thing, its named looks are regions, and its pretraining can be resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dti_repro.toybox.drawing import render
from dti_repro.toybox.text_encoder import CLIP_ROW_NORM, TextEncoder
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids
from dti_repro.toybox.training import fit
from dti_repro.toybox.world import world
from dti_repro.toybox.world2.looks import NAMED, Individual

WORLD = world(2)
SCENES = [WORLD.scene_of(900, k) for k in range(150)]


def test_a_scene_and_its_captions_are_functions_of_stream_and_number() -> None:
    for k in range(10):
        again = WORLD.scene_of(900, k)
        assert again == SCENES[k]
        assert np.array_equal(render(again), render(SCENES[k]))
        texts = {WORLD.caption(scene, np.random.default_rng(k)) for scene in (again, SCENES[k])}
        assert len(texts) == 1


def test_captions_use_known_words_and_fit_the_context() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        for text in (WORLD.caption(scene, rng), WORLD.full_caption(scene, rng), *WORLD.swapped(scene, rng).values()):
            assert set(text.split()) <= set(WORLD.words)
            assert len(text.split()) <= 30
        assert all(value in WORLD.facts[name] for name, value in WORLD.values(scene).items())


def test_at_least_500_words_are_one_token_each() -> None:
    tokenizer = build_tokenizer(WORLD.words)
    assert len(WORLD.words) >= 500
    assert len(word_ids(tokenizer, WORLD.words)) == len(WORLD.words) + 2
    assert all(len(ids) == 3 for ids in tokenizer(list(WORLD.words)).input_ids)
    assert build_tokenizer(WORLD.words).get_vocab() == tokenizer.get_vocab()


def test_a_named_individual_lies_in_its_region_unless_adjectives_overrule_the_name() -> None:
    named = [scene.subject for scene in SCENES if isinstance(scene.subject, Individual) and scene.subject.name]
    assert 0.5 < len(named) / len(SCENES) < 0.9
    for subject in named:
        assert NAMED.by_name[subject.name].holds(subject) == (not subject.overruled)


def test_overruling_adjectives_are_always_said_beside_the_name() -> None:
    rng = np.random.default_rng(0)
    overruled = [scene for scene in SCENES if scene.subject.overruled]
    for scene in overruled:
        words = WORLD.caption(scene, rng).split()
        if scene.subject.name in words:
            said = {"color": scene.subject.color, "pattern": scene.subject.pattern}
            assert all(said[what] in words for what in scene.subject.overruled)
    assert overruled


@pytest.fixture
def narrow() -> dict:
    return {
        "world": 2, "width": 32, "layers": 1, "heads": 2, "activation": "quick_gelu", "batch": 6,
        "decay_matrices_only": True, "look_weight": 2.0, "wrong_share": 0.4,
    }  # fmt: skip


def test_rows_start_at_clips_norm_and_are_free_of_weight_decay(narrow: dict) -> None:
    stage = TextEncoder(**narrow)
    rows = stage.model.text.get_input_embeddings().weight
    norms = rows[word_ids(stage.tokenizer, WORLD.words)].norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, CLIP_ROW_NORM))
    bound, free = stage.parameter_groups(2.0)
    assert (bound["weight_decay"], free["weight_decay"]) == (2.0, 0.0)
    assert any(p is rows for p in free["params"])
    assert sum(len(group["params"]) for group in (bound, free)) == len(list(stage.model.parameters()))


def test_the_text_encoders_training_goes_on_where_it_was_killed(narrow: dict, tmp_path: Path) -> None:
    settings = {"lr": 1e-3, "warmup": 1, "decay": 2, "weight_decay": 2.0, "checkpoint_every": 2}
    whole, broken, resumed = (TextEncoder(**narrow) for _ in range(3))
    fit(whole, tmp_path / "whole", steps=4, **settings)
    loss = broken.loss
    broken.loss = lambda step: loss(step) if step < 3 else 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fit(broken, tmp_path / "broken", steps=4, **settings)
    fit(resumed, tmp_path / "broken", steps=4, **settings)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_held_out_subjects_lie_outside_every_region() -> None:
    for index, cls in enumerate(("bird", "car", "mug", "robot")):
        subject, known = WORLD.held_out_subject(np.random.default_rng([2, 900, index]), cls, index)
        assert subject.cls == cls
        assert not NAMED.around(subject)
        assert set(known) == {"lies", "nearest"}
