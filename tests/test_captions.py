"""Captions beside photos are the prompts of their own photos, in both passes of a training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.files import read_json
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.load import load_backbone
from dti_repro.data.captions import with_captions
from dti_repro.data.concept import Concept, Folder
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.views import Framing
from dti_repro.errors import InputError
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]
TEXTS = ["a red {} on the grass", "a ball left of a <rex>", "a photo of a car\n"]


@pytest.fixture
def photos(subjects: Path, tmp_path: Path) -> Path:
    """Three photos with captions: one has a field, one the placeholder, one neither."""
    folder = Path(shutil.copytree(subjects / "ann", tmp_path / "rex"))
    for k, text in enumerate(TEXTS):
        (folder / f"{k}.txt").write_text(text)
    return folder


def encoded(backbone: Backbone, concept: Concept, samples: int) -> ConceptDataset:
    initializer = backbone.embed_initializer(concept.name, concept.initializer, 0)
    return ConceptDataset(backbone, concept, initializer, ["a {}"], [], 0, samples, LatentCache(None, {}), Framing())


def test_each_photo_is_shown_with_its_caption(training: Training, photos: Path) -> None:
    backbone = load_backbone(training().backbone, "cpu")
    concept = with_captions(Folder(str(photos), initializer="cat").load()[0])
    data = encoded(backbone, concept, 6)
    for word, tokens in (("<rex>", data.tokens), ("cat", data.class_tokens)):
        written = [f"a red {word} on the grass", f"a ball left of a {word}", f"{word}, a photo of a car"]
        expected = backbone.tokenize(written, {"<rex>": 1} if word == "<rex>" else {})
        assert all(torch.equal(ids, expected.ids[name]) for name, ids in tokens.ids.items())
    for step in range(3):
        batch = data[step]
        assert torch.equal(batch.template, batch.image)
        assert sorted(batch.image.tolist()) == [0, 0, 1, 1, 2, 2]


def test_noise_and_timesteps_do_not_depend_on_the_templates(training: Training, photos: Path) -> None:
    backbone = load_backbone(training().backbone, "cpu")
    concept = Folder(str(photos), initializer="cat").load()[0]
    plain, captioned = (encoded(backbone, c, 2)[3] for c in (concept, with_captions(concept)))
    assert all(torch.equal(getattr(plain, key), getattr(captioned, key)) for key in ("image", "t", "noise"))


def test_what_was_learned_with_other_captions_is_not_taken_for_done(of_photos: Training, photos: Path) -> None:
    cfg = of_photos(photos, "templates=captions")
    (folder,) = train(cfg)
    assert folder.path.parents[1] != train(of_photos(photos))[0].path.parents[1]
    assert read_json(folder.metadata, "")["captions"][2] == "{}, a photo of a car"
    embedding = folder.embedding.read_bytes()
    train(cfg)
    assert folder.embedding.read_bytes() == embedding
    (photos / "2.txt").write_text("a photo of a dog")
    with pytest.raises(InputError, match=r"'rex' is not the one that .* was trained with \(changed: captions\)"):
        train(cfg)


def test_the_end_of_a_caption_that_is_too_long_is_said(
    of_photos: Training, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.txt").write_text("a cat " * 20)
    train(of_photos(photos, "templates=captions", "trainer.steps=1"))
    assert "rex: the caption of 0.png is too long, 'a cat a cat" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("1.txt", None, r"1 of the 3 photos of rex have no caption, such as .*/rex/1\.txt: write"),
        ("1.txt", b" \n", r"rex/1\.txt is empty"),
        ("1.txt", b"\xff\xfe\x00", r"rex/1\.txt cannot be read .*UTF-8"),
        ("1.txt", b"a {} and a {}", r"rex/1\.txt has the word 2 times"),
        ("1.txt", b"a <lora:x:1> {}", r"rex/1\.txt has <lora:x:1>, which is no word"),
        ("1.webp", b"x", r"two photos of rex differ in their suffix only"),
    ],
    ids=["none", "empty", "bytes", "twice", "unknown", "suffix"],
)
def test_a_caption_that_cannot_be_used_is_one_line_before_a_model_is_loaded(
    of_photos: Training,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    content: bytes | None,
    words: str,
) -> None:
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    (photos / file).unlink(missing_ok=True)
    if content is not None:
        (photos / file).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        train(of_photos(photos, "templates=captions"))
    assert "\n" not in str(error.value)
