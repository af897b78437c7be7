"""Photos that are not square: cut in the middle, at random, or shown whole in buckets of their aspect ratios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageOps

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.sdxl import StableDiffusionXL
from dti_repro.data.concept import Concept, Folder
from dti_repro.data.encoded_views import EncodedViews
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.masks import with_masks
from dti_repro.data.views import Framing, buckets, cut, nearest_bucket
from dti_repro.errors import InputError, OutOfMemoryError
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.runs import hashed
from dti_repro.training.train_missing import train
from tests.crash import assert_same, stop_after
from tests.tiny import build_tiny_sdxl

Training = Callable[..., DictConfig]
SHAPES = {"a": (64, 16), "b": (16, 48), "c": (20, 20), "d": (48, 16), "e": (60, 15)}


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row, each times 4."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns * 4, rows * 4, rows * 0], axis=-1).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "rex"
    folder.mkdir()
    for name, size in SHAPES.items():
        ramp(*size).save(folder / f"{name}.png")
    return folder


def concept_of(photos: Path) -> Concept:
    return Folder(str(photos), initializer="cat").load()[0]


def test_buckets_are_those_that_sdxl_was_trained_with() -> None:
    """Podell et al. 2023, appendix I, heights and widths of its list up to the square."""
    published = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408
        704x1344 768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024"""
    listed = {tuple(map(int, sides.split("x"))) for sides in published.split()}
    found = buckets(1024, 8)
    assert {tuple(sorted(sides)) for sides in found} <= listed
    assert len(found) == 2 * 16 + 1
    assert nearest_bucket((4000, 3000), 768, 8) == (896, 640)
    assert nearest_bucket((3000, 4000), 768, 8) == (640, 896)
    assert nearest_bucket((1000, 1000), 768, 8) == (768, 768)
    for size, step in ((512, 8), (768, 8), (1024, 32), (16, 8), (48, 8)):
        for width, height in buckets(size, step):
            assert width * height <= size**2
            assert (size < 256 and (width % step, height % step) == (0, 0)) or (width % 64, height % 64) == (0, 0)


def test_the_corner_that_is_told_is_where_the_view_was_cut(photos: Path) -> None:
    views = list(cut(concept_of(photos), Framing("random", 5), 16, 8, seed=3))
    assert [view.photo for view in views] == [0] * 5 + [1] * 5 + [2] + [3] * 5 + [4] * 5
    for view in views:
        width, height = list(SHAPES.values())[view.photo]
        assert view.sizes[:2] + view.sizes[4:] == (height, width, 16, 16)
        scale = 16 / min(width, height)
        red, green, _ = np.asarray(view.pixels)[8, 8] / 4 * scale
        assert red == pytest.approx(view.sizes[3] + 8, abs=1.5)
        assert green == pytest.approx(view.sizes[2] + 8, abs=1.5)
    assert len({view.sizes for view in views[:5]}) > 2
    again = list(cut(concept_of(photos), Framing("random", 5), 16, 8, seed=3))
    assert [view.sizes for view in again] == [view.sizes for view in views]
    assert [view.sizes for view in cut(concept_of(photos), Framing("random", 5), 16, 8, 4)] != [v.sizes for v in views]
    (middle, *_) = cut(concept_of(photos), Framing(), 16, 8, seed=3)
    assert middle.sizes == (16, 64, 0, 24, 16, 16)


def test_a_step_is_of_one_bucket_and_each_photo_is_shown_equally_often(training: Training, photos: Path) -> None:
    backbone = load_backbone(training().backbone, "cpu")
    concept = concept_of(photos)
    initializer = backbone.embed_initializer("rex", "cat", 0)
    cache = LatentCache(None, {})
    data = ConceptDataset(backbone, concept, initializer, ["a {}"], [], 0, 3, cache, Framing("none"))
    shown: Counter[int] = Counter()
    shapes = set()
    for step in range(2 * len(SHAPES)):
        batch = data[step]
        shown.update(batch.image.tolist())
        latents = data.latents.sample(batch.image, torch.zeros_like(batch.latent_noise))
        shapes |= {tuple(latents.shape[-2:])}
        for row, image in zip(latents, batch.image.tolist(), strict=True):
            width, height = (4 * side for side in latents.shape[:1:-1])
            photo = ImageOps.fit(ramp(*list(SHAPES.values())[image]), (width, height), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1
            torch.testing.assert_close(row, backbone.encode_images(pixels).mean[0])
    assert shown == dict.fromkeys(range(len(SHAPES)), 6)
    assert shapes == {(2, 8), (2, 6), (6, 2), (4, 4)}  # 32 x 8, 24 x 8, 8 x 24 and 16 x 16 pixels


@pytest.mark.parametrize("crop", ["random", "none"])
def test_square_photos_are_learned_as_without_a_crop(crop: str, training: Training, tmp_path: Path) -> None:
    plain, other = (train(training(f"trainer.crop={c}", "concepts.names=[ann]"))[0] for c in ("centre", crop))
    assert plain.path != other.path
    assert torch.equal(load_embedding(plain.embedding)[1], load_embedding(other.embedding)[1])


@pytest.mark.parametrize("crop", ["random", "none"])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    crop: str, of_photos: Training, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (f"trainer.crop={crop}", "trainer.checkpoint_every=2")
    whole = train(of_photos(photos, *keys, f"runs={tmp_path / 'whole'}"))[0]
    stop_after(monkeypatch, 3)
    with pytest.raises(OutOfMemoryError):
        train(of_photos(photos, *keys))
    monkeypatch.undo()
    assert_same(train(of_photos(photos, *keys))[0], whole)


@pytest.mark.parametrize("fuse", [True, False])
def test_concepts_of_other_shapes_are_packed(fuse: bool, training: Training, photos: Path) -> None:
    """Fused, those whose step is of one shape take a pass together."""
    root = photos.parent
    (root / "tom").mkdir()
    for name in ("a", "c"):
        ramp(*SHAPES[name]).transpose(Image.Transpose.ROTATE_180).save(root / "tom" / f"{name}.png")
    (root / "pets.yaml").write_text("rex: {class: cat}\ntom: {class: car}\n")
    node = {"_target_": "dti_repro.data.concept.Collection", "index": str(root / "pets.yaml"), "root": str(root)}
    packed, alone = training(f"trainer.fuse={fuse}", "trainer.crop=none"), {}
    packed.concepts = OmegaConf.create({**node, "names": "all"})
    for name in ("rex", "tom"):
        cfg = training("trainer.crop=none", "trainer.fuse=false", f"runs={root / name}")
        cfg.concepts = OmegaConf.create({**node, "names": name})
        alone[name] = train(cfg)[0]
    for folder in train(packed):
        if fuse:
            expected, found = (load_embedding(f.embedding)[1] for f in (alone[folder.name], folder))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        else:
            assert_same(folder, alone[folder.name])


def test_a_run_keeps_its_hash_until_the_crop_is_another(training: Training) -> None:
    assert hashed(training())["trainer"].keys() == {"steps", "batch", "accumulate", "precision"}
    assert hashed(training("trainer.crops=3"))["trainer"].keys() == {"steps", "batch", "accumulate", "precision"}
    assert hashed(training("trainer.crop=random", "trainer.crops=3"))["trainer"]["crops"] == 3
    assert hashed(training("trainer.crop=none"))["trainer"]["crop"] == "none"


def test_a_random_crop_shows_some_of_the_subject(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks" / "rex"
    masks.mkdir(parents=True)
    for name, (width, height) in SHAPES.items():
        mask = np.zeros((height, width), np.uint8)
        mask[-4:, -4:] = 255
        Image.fromarray(mask).save(masks / f"{name}.png")
    concept = with_masks(concept_of(photos), masks.parent)
    for crop in ("random", "none"):
        assert all(np.asarray(view.mask).any() for view in cut(concept, Framing(crop, 8), 16, 8, 0))
    with pytest.raises(InputError, match=r"a\.png is black in the part of its photo that is trained on"):
        list(cut(concept, Framing("centre"), 16, 8, 0))


def test_sdxl_is_told_the_sizes_that_were_asked_for(photos: Path, tmp_path: Path) -> None:
    """The loss is that of the UNet, called with the numbers of Podell et al. 2023, section 2.2."""
    checkpoint = str(build_tiny_sdxl(tmp_path / "sdxl"))
    backbones = {
        sizes: StableDiffusionXL("sdxl", checkpoint, 16, sizes=sizes) for sizes in ("uncropped", "as_published")
    }
    for sizes, framing, told in (
        ("uncropped", Framing(), (16, 16, 0, 0, 16, 16)),
        ("uncropped", Framing("none"), (8, 32, 0, 0, 8, 32)),
        ("as_published", Framing(), (16, 64, 0, 24, 16, 16)),
        ("as_published", Framing("none"), (16, 64, 0, 0, 8, 32)),
    ):
        backbone = backbones[sizes]
        views = EncodedViews(backbone, concept_of(photos), LatentCache(None, {}), framing, 0)
        index = torch.tensor([0])
        noise = torch.randn(1, *views.shape(index), generator=torch.Generator().manual_seed(0))
        latents, t = views.sample(index, noise), torch.tensor([500])
        given = backbone.encode_text(backbone.tokenize(["a cat"], {}))
        added = {"text_embeds": given.pooled, "time_ids": torch.tensor([told], dtype=torch.float32)}
        noisy = backbone.training_scheduler.add_noise(latents, noise, t)
        predicted = backbone.denoiser(noisy, t, given.hidden, added_cond_kwargs=added).sample
        loss = backbone.loss(latents, noise, t, replace(given, sizes=views.sizes[index]))
        torch.testing.assert_close(loss, (predicted - noise).square().flatten(1).mean(1))
