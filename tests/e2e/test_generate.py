"""Pictures of learned words: the right ones, drawn once, and told apart from pictures of other settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.embedding import save_embedding
from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.run_dir import parse
from dti_repro.data.prompts import Prompt, PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.inference.generator import draw
from dti_repro.inference.image_folder import GenerationConfig
from dti_repro.inference.selection import of_run
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


def test_pictures_of_an_embedding_that_changed_are_drawn_again(run: Path, compose: Compose) -> None:
    cfg = compose("generate", *request(run, 'prompts=["a {}"]', "concepts.names=[rex]"))
    (folder,) = generate(cfg)
    before = pixels(folder / "p000_s0.png")
    save_embedding(run / "rex" / "embedding.safetensors", "<rex>", 20 * vectors(7), {})
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
    cfg = compose("generate", *request(run, "prompts=x"))
    settings = GenerationConfig.of(cfg)
    image_folders = of_run(parse(run), cfg, PromptSet("x", (Prompt("a {}"),)), [0], settings)
    assert draw([*image_folders, *image_folders], cfg, settings) == 2
    assert draw([*image_folders, *image_folders], cfg, settings) == 0


def test_two_concepts_in_one_prompt(run: Path, compose: Compose) -> None:
    (folder,) = generate(compose("generate", *request(run, 'prompts=["a {tom} left of a {rex}"]')))
    assert folder.parents[1] == run / "rex+tom"
    (image,) = Manifest.read(folder / "manifest.json").images
    assert (image.prompt, image.concepts) == ("a <tom> left of a <rex>", ("tom", "rex"))


def test_snapshots_can_be_drawn(run: Path, compose: Compose) -> None:
    save_embedding(run / "rex" / "snapshots" / "step_000050.safetensors", "<rex>", vectors(9), {})
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
    ("overrides", "complaint"),
    [
        (["prompts=nosuch"], "prompts=nosuch"),
        (['prompts=["a {}"]', "width=16"], "together"),
        (["prompts=nosuch.txt"], "nosuch.txt: no such file"),
        (['prompts=["a dog"]'], "has no {}"),
        (['prompts=["a {max}"]'], "no concept 'max'"),
        (['prompts=["a {}"]', "steps=0"], "steps is 0"),
        (['prompts=["a {}"]', "guidance=-1"], "guidance is -1"),
        (['prompts=["a {}"]', "batch=0"], "batch is 0"),
        (['prompts=["a {}"]', "width=20"], "width is 20"),
        (['prompts=["a {}"]', "seeds=[0,0]"], "twice"),
        (['prompts=["a {}"]', "seeds=[x]"], "whole numbers"),
        (['prompts=["a {}"]', "concepts.names=[max]"], "concepts.names: max"),
        (['prompts=["a {}"]', "run=nosuch"], "nosuch does not exist"),
        (['prompts=["a {}"]', "text=class"], "either run=<folder> or text="),
        (['prompts=["a {}"]', "backbone.path=nosuch"], "nosuch"),
        (['prompts=["a {}"]', "backbone.name=other"], "was trained on stable_diffusion"),
    ],
)
def test_bad_requests_are_one_clear_line(
    run: Path, compose: Compose, overrides: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.load.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    cfg = compose(
        "generate",
        *[o for o in request(run) if o.split("=")[0] not in {x.split("=")[0] for x in overrides}],
        *overrides,
    )
    with pytest.raises(InputError) as error:
        generate(cfg)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def _break(kind: str, path: Path) -> None:
    from safetensors.torch import save_file

    row = torch.ones(1, 32)
    match kind:
        case "shape":
            save_file({"<rex>": torch.ones(1, 2, 32)}, path)
        case "not finite":
            save_file({"<rex>": row * float("nan")}, path)
        case "2 keys":
            save_file({"<rex>": row, "<tom>": row.clone()}, path)
        case "not a safetensors file":
            torch.save({"<rex>": row}, path)


@pytest.mark.parametrize("kind", ["shape", "not finite", "2 keys", "not a safetensors file"])
def test_a_broken_embedding_is_named_before_a_model_is_loaded(
    run: Path, compose: Compose, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.load.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    path = run / "rex" / "embedding.safetensors"
    _break(kind, path)
    with pytest.raises(InputError, match=kind) as error:
        generate(compose("generate", *request(run, 'prompts=["a {}"]')))
    assert str(path) in str(error.value)


def test_an_embedding_of_another_width_is_refused(run: Path, compose: Compose) -> None:
    save_embedding(run / "rex" / "embedding.safetensors", "<rex>", torch.ones(1, 8), {})
    with pytest.raises(InputError, match="8 wide"):
        generate(compose("generate", *request(run, 'prompts=["a {}"]')))
    assert not list(run.rglob("manifest.json"))  # which an evaluation of the whole run would stumble over


def test_prompt_files(tmp_path: Path) -> None:
    lines = tmp_path / "mine.txt"
    lines.write_text("# comment\na {} and a {}\n\n{a} next to {b-1}\n")
    prompts = load_prompts(str(lines)).prompts
    assert prompts[0].fill({"x": "<x>"}) == "a <x> and a <x>"
    assert prompts[1].fill({"a": "A", "b-1": "B"}) == "A next to B"
    assert prompts[1].names == ("a", "b-1")
    lines.write_text("a {}\n", encoding="utf-8-sig")  # as some editors write it
    assert load_prompts(str(lines)).prompts[0].template == "a {}"
    for bad in ("{", "{} next to {a}", "{0!r}", "{:>3}"):
        lines.write_text(bad)
        with pytest.raises(InputError, match="mine"):
            load_prompts(str(lines))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.yaml", "a: &a [1]\nprompts: [*a, *a]", "aliases"),
        ("x.yaml", "[" * 2000, "nested too deeply"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.txt", "a {}\n" * 300_000, "larger than 1 MiB"),
        ("x.json", "[5]", "5 is neither a template"),
        ("x.json", '{"prompts": "a {}"}', "a list of prompts is needed"),
        ("x.json", '[{"template": 5}]', "of text"),
        ("x.json", '[{"template": "a {}", "expect": ["class"]}]', "of text"),
        ("x.json", '[{"template": "a {}", "expect": {"class": 5}}]', "of text"),
        ("x.json", r'["a {} \ud800"]', "is not a template"),
        ("x.txt", b"a {} \xff", "cannot be read as prompts"),
    ],
)
def test_odd_prompt_files_are_one_line(name: str, content: str | bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"{name}.*{complaint}"):
        load_prompts(str(path))
