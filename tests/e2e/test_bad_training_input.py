"""What cannot be trained is one clear line before a model is loaded; photos of every kind are taken, upright."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from dti_repro.backbones import load
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to load one fails the test."""
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(load, "_load", lambda *_: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["concepts.names=[zed]"], "unknown concept 'zed'"),
        (["concepts.names=[]"], "concepts.names is empty"),
        (["concepts.split=tables"], "concepts.split 'tables'"),
        (["optim.lr=0"], "optim.lr is 0"),
        (["optim.lr=-0.1"], "optim.lr is -0.1"),
        (["optim.lr=nan"], "optim.lr is nan"),
        (["optim.lr=fast"], "optim.lr is fast: a number"),
        (["method.magnitude=0"], "magnitude is 0"),
        (["method.magnitude=-2"], "magnitude is -2"),
        (["method.magnitude=nan"], "magnitude is nan"),
        (["method.magnitude=biggest"], "magnitude is biggest: mean, min"),
        (["method=ti_rescaled", "method.magnitude=biggest"], "biggest"),
        (["method.init=zero"], "method.init 'zero' is none of token, .*, contextual, and no embedding"),
        (["method=crossinit", "method.prior.distance=l1"], "distance is l1: unsquared or mse"),
        (["+method.foo=1"], "foo"),
        (["method=ti", "optim=spherical_sgd"], "method 'ti'.*SphericalSGD"),
        (["method=dti", "optim=adamw"], "method 'dti'.*AdamW"),
        (["trainer.steps=0"], "trainer.steps is 0"),
        (["trainer.batch=1.5"], "trainer.batch is 1.5"),
        (["trainer.snapshots=[7]"], "trainer.snapshots has 7"),
        (["trainer.precision=fp8"], "trainer.precision is fp8: fp32 or bf16"),
        (["trainer.batch=1000000000"], "trainer.batch is 1000000000: .* at most 4096"),
        (["trainer.threads=0"], "trainer.threads is 0"),
        (["trainer.accelerator=tpu"], "trainer.accelerator is tpu: cpu, gpu or auto"),
        (["trainer.preview_prompts=a"], "trainer.preview_prompts is a: a list"),
        (["trainer.fuse=maybe"], "trainer.fuse is maybe: true or false or auto"),
        (["templates.prompts=[a photo]"], "'a photo' must have one {}"),
        (["backbone.path=/nowhere"], "backbone.path /nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_settings(training: Training, keys: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        train(training(*keys))
    assert "\n" not in str(error.value)


def test_a_run_folder_that_cannot_be_written(training: Training, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.* cannot be written"):
        train(training(f"runs={tmp_path / 'file'}"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "rex"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg")
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: folder.rename(folder.parent / "gone"), "rex does not exist"),
        (lambda folder: (folder / "a.jpg").rename(folder / "a.txt"), "rex holds no image"),
        (lambda folder: (folder / "b.png").write_text("hello"), r"b\.png cannot be read: not an image"),
        (
            lambda folder: (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900]),
            r"b\.jpg cannot be read",
        ),
    ],
    ids=["missing", "empty", "text", "truncated"],
)
def test_bad_photos(of_photos: Training, photos: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(photos)
    with pytest.raises(InputError, match=words) as error:
        train(of_photos(photos))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        ({"initializer": "axolotl"}, "initializer 'axolotl' is unknown"),
        ({"initializer": "red axolotl"}, "initializer 'red axolotl' is unknown"),
        ({"initializer": " "}, "no initializer"),
        ({"placeholder": "cat"}, "placeholder 'cat' is already a word"),
        ({"placeholder": "<|endoftext|>"}, "already a word"),
        ({"placeholder": "rex"}, "placeholder 'rex': write it as <name>"),
        ({"placeholder": "<my dog>"}, "must be one word"),
        ({"name": "../up"}, "cannot be a file name"),
        ({"property": "mood"}, "concepts.property is mood: object or style"),
    ],
    ids=str,
)
def test_bad_words(of_photos: Training, photos: Path, concept: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(of_photos(photos, **concept))


def test_photos_of_every_kind_come_out_upright_in_eight_bits(tmp_path: Path) -> None:
    """Left half dark, right half bright: the same picture however it is stored."""
    plain = np.zeros((10, 20, 3), np.uint8)
    plain[:, 10:] = 200
    image = Image.fromarray(plain)
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / "exif.png", exif=exif)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(plain[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    image.convert("L").save(tmp_path / "grey.png")
    image.quantize(4).save(tmp_path / "palette.png")
    for path in sorted(tmp_path.iterdir()):
        loaded = load_photo(path)
        assert (loaded.mode, loaded.size) == ("RGB", (20, 10)), path.name
        assert np.abs(np.asarray(loaded).astype(int) - plain).max() <= 3, path.name


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "b.png")
    for path in sorted(tmp_path.iterdir()):
        assert (np.asarray(load_photo(path)) == 255).all()
