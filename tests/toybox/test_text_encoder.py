"""The text encoder's pretraining: it starts at CLIP's scale and can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dti_repro.toybox.language import WORDS
from dti_repro.toybox.text_encoder import CLIP_ROW_NORM, TextEncoder
from dti_repro.toybox.tokenizer import word_ids
from dti_repro.toybox.training import fit


@pytest.fixture
def narrow() -> dict:
    return {
        "width": 32, "layers": 1, "heads": 2, "activation": "quick_gelu", "batch": 6,
        "decay_matrices_only": True, "look_weight": 2.0, "wrong_share": 0.4,
    }  # fmt: skip


def test_rows_start_at_clips_norm_and_are_free_of_weight_decay(narrow: dict) -> None:
    stage = TextEncoder(**narrow)
    rows = stage.model.text.get_input_embeddings().weight
    norms = rows[word_ids(stage.tokenizer, WORDS)].norm(dim=-1)
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
