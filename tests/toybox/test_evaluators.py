"""The shipped evaluators, loaded as a user's own script would load them, on scenes that nobody trained on."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

import dti_repro.toybox
from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.toybox.drawing import render
from dti_repro.toybox.evaluators.data import STREAMS, EvaluatorScenes
from dti_repro.toybox.language import full_caption, swapped
from dti_repro.toybox.looks import sample_free
from dti_repro.toybox.sampling import sample_scene
from dti_repro.toybox.scene import ATTRIBUTES

WEIGHTS = Path(dti_repro.toybox.__path__[0]) / "weights"
STREAM = 7009
COUNT = 200


def _rng(*key: int) -> np.random.Generator:
    assert STREAM not in STREAMS.values()
    return np.random.default_rng([STREAM, *key])


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(_rng(i), sample_free(_rng(i, 8))) for i in range(COUNT)]


@pytest.fixture(scope="module")
def pictures(scenes):
    return [Image.fromarray(render(scene)) for scene in scenes]


def _timm(name: str, **arguments):
    model = timm.create_model(f"local-dir:{WEIGHTS / name}", pretrained=True, **arguments).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    return model, transform


def _portrait(subject, index, view) -> Image.Image:
    return Image.fromarray(render(sample_scene(_rng(index, view), subject=subject)))


@torch.inference_mode()
def test_reader_names_what_a_clean_picture_shows(scenes, pictures):
    heads = json.loads((WEIGHTS / "reader" / "heads.json").read_text())
    assert list(heads.items()) == [(name, list(values)) for name, values in ATTRIBUTES.items()]
    model, transform = _timm("reader")
    outputs = model(torch.stack([transform(p) for p in pictures])).split([len(v) for v in heads.values()], dim=1)
    for (name, values), output in zip(heads.items(), outputs, strict=True):
        said = [values[k] for k in output.argmax(1)]
        shown = [scene.attributes().get(name) for scene in scenes]
        right = [a == b for a, b in zip(said, shown, strict=True) if b]
        # The model card's figures are of 4,000; of some 100 to 200, chance takes three points.
        floor = {"color": 0.87, "pattern": 0.68}.get(name, 0.92 if name.endswith("color") else 0.94)
        assert np.mean(right) >= floor, name


@torch.inference_mode()
def test_subject_encoder_finds_an_individual_in_other_surroundings():
    model, transform = _timm("subject_encoder", num_classes=0)
    individuals = [sample_free(_rng(i)) for i in range(COUNT)]
    one, two = (
        F.normalize(model(torch.stack([transform(_portrait(s, i, view)) for i, s in enumerate(individuals)])), dim=1)
        for view in range(2)
    )
    similar = one @ two.T
    assert (similar.argmax(1) == torch.arange(COUNT)).float().mean() >= 0.85
    classes = np.array([individual.cls for individual in individuals])
    same_class = torch.from_numpy((classes[:, None] == classes) & ~np.eye(COUNT, dtype=bool))
    assert similar.diagonal().mean() > similar[same_class].mean() + 0.3


@torch.inference_mode()
def test_scorer_prefers_the_caption_whose_roles_and_colours_are_right(scenes, pictures):
    folder = f"local-dir:{WEIGHTS / 'scorer'}"
    model, _, transform = open_clip.create_model_and_transforms(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    model.eval()
    image = model.encode_image(torch.stack([transform(p) for p in pictures]), normalize=True)
    right = model.encode_text(tokenizer([full_caption(s, _rng(i, 9)) for i, s in enumerate(scenes)]), normalize=True)
    assert ((image @ right.T).argmax(1) == torch.arange(COUNT)).float().mean() >= 0.9
    wrong = [list(swapped(s, _rng(i, 10)).values()) for i, s in enumerate(scenes)]
    texts = model.encode_text(tokenizer([w for group in wrong for w in group]), normalize=True)
    won = [
        (image[i] @ right[i] > (group @ image[i]).max()).item()
        for i, group in enumerate(texts.split([len(group) for group in wrong]))
        if len(group)
    ]
    assert np.mean(won) >= 0.94


def test_every_second_view_is_decoded_where_an_autoencoder_is_given(tmp_path: Path) -> None:
    plain = EvaluatorScenes("heldout", 4, 2, tmp_path)
    decoded = EvaluatorScenes("heldout", 4, 2, tmp_path, autoencoder=str(PACKAGED / "vae"))
    assert np.array_equal(plain.images[::2], decoded.images[::2])
    error = np.abs(plain.images[1::2].astype(int) - decoded.images[1::2])
    assert 0 < error.mean() < 10
