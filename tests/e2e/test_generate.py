"""Pictures of learned words: the right ones, drawn once, and told apart from pictures of other settings."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import save

from dti_repro.artifacts.embedding import load_embedding, save_embeddings
from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.run_dir import finished_concepts
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.location import located
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.inference.generator import draw_missing
from dti_repro.inference.selection import image_folders_of_run
from tests.e2e.trained import trained_run, vectors

Compose = Callable[..., DictConfig]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained_run(tmp_path / "runs", {"rex": vectors(0), "tom": vectors(1, count=2)})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def request(run: Path, *more: str) -> list[str]:
    return [f"run={run}", "steps=2", *more]


def test_manifest_says_what_each_picture_is(run: Path, compose: Compose, tmp_path: Path) -> None:
    prompts = tmp_path / "beach.yaml"
    prompts.write_text('prompts: [{template: "a {} on the beach", expect: {background: beach}}, "a {}"]')
    folders = generate(compose("generate", *request(run, f"prompts={prompts}", "seeds=[0,3]")))
    assert [folder.parents[1].name for folder in folders] == ["rex", "tom"]
    manifest = Manifest.read(folders[0] / "manifest.json")
    assert [(i.file, i.seed) for i in manifest.images][:2] == [("p000_s0.png", 0), ("p000_s3.png", 3)]
    first = manifest.images[0]
    assert (first.prompt, first.text) == ("a <rex> on the beach", "a cat on the beach")
    assert (first.template, first.concepts) == ("a {} on the beach", ("rex",))
    assert first.expect == {"class": "cat", "background": "beach"}
    assert manifest.images[2].expect is None
    assert manifest.generation["steps"] == 2
    assert manifest.generation["prompts"] == "beach"
    assert all(pixels(folders[0] / image.file).shape == (16, 16, 3) for image in manifest.images)


def test_a_picture_does_not_depend_on_its_batch(run: Path, compose: Compose) -> None:
    templates = 'prompts=["a {}","the {} in the city","a {} with a hat"]'
    (together, _) = generate(compose("generate", *request(run, templates, "seeds=[0,1]", "batch=6")))
    batched = {path.name: pixels(path) for path in together.glob("*.png")}
    for path in together.glob("*.png"):
        path.unlink()
    generate(compose("generate", *request(run, templates, "seeds=[0,1]", "batch=1")))
    assert len(batched) == 6
    assert max(np.abs(batched[path.name] - pixels(path)).max() for path in together.glob("*.png")) <= 1


def test_what_is_there_stays_and_what_is_missing_is_drawn(run: Path, compose: Compose) -> None:
    cfg = compose("generate", *request(run, 'prompts=["a {}","the {}"]', "concepts.names=[rex]"))
    (folder,) = generate(cfg)
    kept, lost = folder / "p000_s0.png", folder / "p001_s0.png"
    before, expected = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert generate(cfg) == [folder]
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == expected


def test_a_picture_that_is_lost_is_drawn_in_the_same_batch_again(
    run: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours change its rounding, so a command that was killed within a batch ends with the same files."""
    cfg = compose("generate", *request(run, 'prompts=["a {}","the {}","one {}"]', "concepts.names=[rex]", "batch=2"))
    (folder,) = generate(cfg)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.png")}
    (folder / "p001_s0.png").unlink()
    drawn, draw = [], Backbone.generate

    def watched(self: Backbone, prompts: list[str], *arguments: object, **keys: object) -> list[Image.Image]:
        drawn.append(prompts)
        return draw(self, prompts, *arguments, **keys)

    monkeypatch.setattr(Backbone, "generate", watched)
    generate(cfg)
    assert drawn == [["a <rex>", "the <rex>"]]
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.png")}
    assert after["p001_s0.png"][0] == before["p001_s0.png"][0]
    assert after["p000_s0.png"] == before["p000_s0.png"]


def test_a_run_that_was_sent_is_drawn_wherever_it_lies(run: Path, compose: Compose, tmp_path: Path) -> None:
    """The embedding says which backbone it is for; its path is what `train` prints."""
    moved = tmp_path / "rex"
    shutil.copytree(run / "rex", moved)
    file = moved / "embedding.safetensors"
    _, vectors, header = load_embedding(file)
    save_embeddings(file, "<rex>", {"": vectors}, {**header, "base_model": "stable_diffusion"})
    (folder,) = generate(compose("generate", *request(file, 'prompts=["a {}"]')))
    assert folder.is_relative_to(moved)
    save_embeddings(file, "<rex>", {"": vectors}, {**header, "base_model": "sdxl"})
    with pytest.raises(InputError, match="was trained on sdxl: add backbone=sdxl"):
        generate(compose("generate", *request(file, 'prompts=["a {}"]')))


def test_pictures_of_an_embedding_that_changed_are_drawn_again(run: Path, compose: Compose) -> None:
    cfg = compose("generate", *request(run, 'prompts=["a {}"]', "concepts.names=[rex]"))
    (folder,) = generate(cfg)
    before = pixels(folder / "p000_s0.png")
    save_embeddings(run / "rex" / "embedding.safetensors", "<rex>", {"": 20 * vectors(7)}, {})
    assert generate(cfg) == [folder]
    assert np.abs(pixels(folder / "p000_s0.png") - before).max() > 0


@pytest.mark.parametrize(
    "change",
    ["steps=3", "guidance=2", "sampler=euler", "negative_prompt=snow", "seeds=[1]", "width=24 height=16"],
)
def test_other_settings_are_other_pictures(run: Path, compose: Compose, change: str) -> None:
    base = [*request(run, 'prompts=["a {}"]', "concepts.names=[rex]"), "sampler=dpmpp_2m"]
    (first,) = generate(compose("generate", *base))
    kept = [o for o in base if o.split("=")[0] != change.split("=")[0]]
    (second,) = generate(compose("generate", *kept, *change.split()))
    assert first != second
    (a,), (b,) = sorted(first.glob("*.png")), sorted(second.glob("*.png"))
    assert pixels(a).shape != pixels(b).shape or np.abs(pixels(a) - pixels(b)).max() > 0


def test_a_folder_that_is_asked_for_twice_is_drawn_once(run: Path, compose: Compose) -> None:
    """As by two rows of a table that are one training."""
    cfg = compose("generate", *request(run, "prompts=['a {}']"))
    image_folders = image_folders_of_run(finished_concepts(run), cfg)
    assert draw_missing([*image_folders, *image_folders], cfg) == 2
    assert draw_missing([*image_folders, *image_folders], cfg) == 0


def test_two_concepts_in_one_prompt(run: Path, compose: Compose) -> None:
    (folder,) = generate(compose("generate", *request(run, 'prompts=["a {tom} left of a {rex}"]')))
    assert folder.parents[1] == run / "rex+tom"
    (image,) = Manifest.read(folder / "manifest.json").images
    assert (image.prompt, image.concepts) == ("a <tom> left of a <rex>", ("tom", "rex"))


def test_snapshots_can_be_drawn(run: Path, compose: Compose) -> None:
    save_embeddings(run / "rex" / "snapshots" / "step_000050.safetensors", "<rex>", {"": vectors(9)}, {})
    ask = request(run, 'prompts=["a {}"]', "concepts.names=[rex]")
    (final,), (early,) = (
        generate(compose("generate", *ask)),
        generate(compose("generate", *ask, "snapshot=50")),
    )
    assert final != early
    with pytest.raises(InputError, match="snapshot=60"):
        generate(compose("generate", *ask, "snapshot=60"))


def test_the_same_pictures_as_diffusers_with_our_embedding_file(run: Path, compose: Compose, checkpoint: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    template = "a {} left of a red mug"
    folders = generate(compose("generate", *request(run, f'prompts=["{template}"]', "seeds=[5]", "guidance=4")))
    for folder, name in zip(folders, ["rex", "tom"], strict=True):
        pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True)
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.load_textual_inversion(str(run / name / "embedding.safetensors"))
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        prompt = template.replace("{}", f"<{name}>")
        theirs = pipeline(prompt, num_inference_steps=2, guidance_scale=4.0, generator=generator).images[0]
        assert np.abs(pixels(folder / "p000_s5.png") - np.asarray(theirs).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (save({"<rex>": torch.ones(1, 2, 32)}), "shape"),
        (save({"<rex>": torch.full((1, 32), torch.nan)}), "not finite"),
        (save({"<rex>": torch.ones(1, 32), "<tom>": torch.zeros(1, 32)}), "2 keys"),
        (pickle.dumps({"<rex>": [1.0] * 32}), "not a safetensors file"),
    ],
    ids=["shape", "nan", "keys", "pickle"],
)
def test_a_broken_embedding_is_named_before_a_model_is_loaded(
    run: Path, compose: Compose, content: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.load.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    path = run / "rex" / "embedding.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        generate(compose("generate", *request(run, 'prompts=["a {}"]')))
    assert str(path) in str(error.value)


def test_an_embedding_of_another_width_is_refused(run: Path, compose: Compose) -> None:
    save_embeddings(run / "rex" / "embedding.safetensors", "<rex>", {"": torch.ones(1, 8)}, {})
    with pytest.raises(InputError, match="8 wide"):
        generate(compose("generate", *request(run, 'prompts=["a {}"]')))
    assert not list(run.rglob("manifest.json"))  # which an evaluation of the whole run would stumble over


def test_pictures_of_another_precision_lie_elsewhere(run: Path, compose: Compose) -> None:
    asked = request(run, "prompts=['a {}']", "concepts.names=[rex]")
    (first,) = generate(compose("generate", *asked))
    (second,) = generate(compose("generate", *asked, "backbone.dtype=bfloat16"))
    assert first != second
    assert Manifest.read(second / "manifest.json").generation["dtype"] == "bfloat16"


def test_a_corrected_expectation_comes_into_the_manifest_and_draws_nothing(
    run: Path, compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "beach.yaml"
    for place in ("sky", "beach"):
        prompts.write_text(f'prompts: [{{template: "a {{}} on the beach", expect: {{background: {place}}}}}]')
        (folder,) = generate(compose("generate", *request(run, f"prompts={prompts}", "concepts.names=[rex]")))
        assert Manifest.read(folder / "manifest.json").images[0].expect == {"class": "cat", "background": place}
    assert "0 images drawn, 1 were drawn before" in capsys.readouterr().out


def test_a_run_may_be_named_from_inside_of_it(run: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["steps=2", "prompts=['a {}']", "concepts.names=[rex]"]
    (wanted,) = generate(compose("generate", f"run={run}", *asked))
    for place, name in (
        (run, "rex"),
        (run, "."),
        (run / "rex", ".."),
        (run.parents[1], run.parent.name),
        (run / "rex", "."),
    ):
        monkeypatch.chdir(place)
        (found,) = generate(compose("generate", f"run={name}", *asked))
        assert found.resolve() == wanted.resolve()


def test_drawing_otherwise_than_in_training_is_said_and_done(
    run: Path, compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run.parent / "config.yaml"
    cfg = compose("generate", *request(run, "prompts=['a {}']", "concepts.names=[rex]"))
    for weights, words in (
        (fingerprint(located(cfg.backbone)), ""),
        ("0" * 64, "was trained with other weights (backbone.path): the same keys"),
    ):
        config.write_text(f"backbone: {{weights: '{weights}'}}\n")
        generate(cfg)
        said = capsys.readouterr().err
        assert words in said
        assert bool(words) == ("was trained with other" in said)
