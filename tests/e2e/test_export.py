"""Files for other programs are loaded back by diffusers' own loader, and those of others become runs of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image, ImageChops
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from dti_repro.artifacts.embedding import load_embeddings, save_embeddings
from dti_repro.artifacts.run_dir import RunFolder, embedding_files
from dti_repro.backbones.base import EncoderSpec
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.import_embedding import import_embedding
from dti_repro.inference.export import export
from dti_repro.training.train_missing import train
from tests.composed import composed
from tests.e2e.trained import CLASS, trained_run, vectors
from tests.tiny import DIM, DIM_2, build_tiny_sdxl

Compose = Callable[..., DictConfig]
TARGETS = ("diffusers", "a1111", "comfyui")
BOTH = {"text_encoder": vectors(0, 2), "text_encoder_2": torch.randn(2, DIM_2)}


def config(command: str, *overrides: str) -> DictConfig:
    cfg = composed(command, *overrides)
    validate(command, cfg)
    return cfg


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A run of one text encoder, in which rex has two vectors."""
    return trained_run(tmp_path / "runs", {"rex": vectors(0, 2)})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The same with SDXL's two text encoders."""
    run = RunFolder(tmp_path / "runs", "sdxl", "dti", "0123456789", 42)
    header = {"method": "dti", "base_model": "sdxl", "initializer": CLASS}
    save_embeddings(run.concept("rex").embedding, "<rex>", BOTH, header)
    return run.path


def follow(text: Path, model: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the Python of the text beside an export as it stands, on our checkpoint; its pipeline."""
    monkeypatch.chdir(text.parent)
    code = text.read_text()
    assert repr(model) in code
    scope: dict[str, Any] = {}
    exec(code.replace(repr(model), repr(str(checkpoint))), scope)
    return scope["pipeline"]


def loaded(encoder: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer.convert_tokens_to_ids(["<rex>", "<rex>_1"])
    return encoder.get_input_embeddings().weight[ids].detach()


@pytest.mark.parametrize("target", TARGETS)
def test_the_calls_in_the_text_load_one_encoders_vectors(
    target: str, one: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, text = export(config("export", f"run={one}", f"to={target}", f"out={tmp_path / 'out'}"))
    assert list(load_file(file)) == (["<rex>"] if target == "diffusers" else ["emb_params"])
    pipeline = follow(text, "path/to/unknown", checkpoint, monkeypatch)
    torch.testing.assert_close(loaded(pipeline.text_encoder, pipeline.tokenizer), vectors(0, 2), rtol=0, atol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_the_calls_in_the_text_load_both_encoders_vectors(
    target: str, two: Path, sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *files, text = export(config("export", f"run={two}", f"to={target}", f"out={tmp_path / 'out'}"))
    if target != "diffusers":
        (file,) = files
        content = load_file(file)
        assert {key: tuple(rows.shape) for key, rows in content.items()} == {"clip_l": (2, DIM), "clip_g": (2, DIM_2)}
    with safe_open(files[0], "pt") as opened:
        header = opened.metadata()
    assert (header["method"], header["base_model"]) == ("dti", "sdxl")
    assert header["trigger_word"] == {"diffusers": "<rex>", "a1111": "rex-dti", "comfyui": "embedding:rex"}[target]
    assert f"{BOTH['text_encoder'][0].norm():.4f}" in header["norms"]
    pipeline = follow(text, "stabilityai/stable-diffusion-xl-base-1.0", sdxl, monkeypatch)
    assert torch.equal(loaded(pipeline.text_encoder, pipeline.tokenizer), BOTH["text_encoder"])
    assert torch.equal(loaded(pipeline.text_encoder_2, pipeline.tokenizer_2), BOTH["text_encoder_2"])


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_exported_can_be_imported(target: str, two: Path, sdxl: Path, tmp_path: Path) -> None:
    *files, _ = export(config("export", f"run={two}", f"to={target}", f"out={tmp_path / 'out'}"))
    listed = "[" + ",".join(f'"{file}"' for file in reversed(files)) + "]"
    ask = [f"files={listed}", "initializer=cat", f"runs={tmp_path / 'runs'}", "backbone=sdxl", f"backbone.path={sdxl}"]
    folder = import_embedding(config("import_embedding", *ask))
    assert folder.name == ("rex-dti" if target == "a1111" else "rex")
    learned = load_embeddings(folder.embedding)
    assert learned.keys() == BOTH.keys()
    assert all(torch.equal(rows, BOTH[name]) for name, rows in learned.items())


def test_an_imported_word_is_rescaled_and_drawn(checkpoint: Path, tmp_path: Path, compose: Compose) -> None:
    theirs = tmp_path / "easy.v2.safetensors"
    save_file({"emb_params": vectors(3)[0].half() * 50}, theirs)  # one vector, half precision, a huge norm
    ask = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", f"runs={tmp_path / 'runs'}"]
    wanted = [f'files=["{theirs}"]', "initializer=cat", "magnitude=mean"]
    folder = import_embedding(config("import_embedding", *ask, *wanted))
    (rows,) = load_embeddings(folder.embedding).values()
    table = load_file(checkpoint / "text_encoder" / "model.safetensors")
    (table,) = (value for key, value in table.items() if key.endswith("token_embedding.weight"))
    assert rows.norm().item() == pytest.approx(EncoderSpec.of(table).norms["mean"], rel=1e-5)
    torch.testing.assert_close(torch.cosine_similarity(rows[0], vectors(3)[0], dim=0), torch.tensor(1.0))
    assert list(embedding_files(folder.embedding)) == [""]
    (images,) = generate(compose("generate", f"run={folder.path}", 'prompts=["a {} on the beach"]', "steps=1"))
    assert (images / "p000_s0.png").is_file()


def test_what_cannot_be_imported_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    def attempt(file: Path, *more: str) -> str:
        ask = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", f"runs={tmp_path / 'runs'}"]
        with pytest.raises(InputError) as error:
            import_embedding(config("import_embedding", *ask, f'files=["{file}"]', "initializer=cat", *more))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "runs").exists()
        return str(error.value)

    good, wide, three = (tmp_path / f"{name}.safetensors" for name in ("good", "wide", "three"))
    save_file({"x": vectors(0)}, good)
    save_file({"x": torch.ones(1, 768)}, wide)
    save_file({"x": vectors(0), "y": vectors(1), "z": vectors(2)}, three)
    for suffix in ("pt", "bin"):
        pickled = tmp_path / f"theirs.{suffix}"
        torch.save({"string_to_param": {"*": vectors(0)}}, pickled)
        assert "To convert it: d = torch.load(file, weights_only=True)" in attempt(pickled)
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(pickled.read_bytes())
    assert "not a safetensors file" in attempt(renamed)
    assert "768 wide, this backbone takes 32" in attempt(wide)
    for words, rows in {
        "empty (0 bytes)": None,
        "is torch.float8_e4m3fn: float32, float16 or bfloat16 is needed": vectors(0).to(torch.float8_e4m3fn),
        "not finite in float32": vectors(0).double() * 1e300,
    }.items():
        other = tmp_path / "other.safetensors"
        other.write_bytes(b"" if rows is None else save({"x": rows}))
        assert words in attempt(other)
        assert str(other) in attempt(other)
    assert "files is 5" in attempt(good, "files=5")
    assert "files is [5]" in attempt(good, "files=[5]")
    assert "files is []" in attempt(good, "files=[]")
    assert "is a StableDiffusionPipeline: choose backbone=sd15 or" in attempt(
        good, "backbone._target_=dti_repro.backbones.sdxl.StableDiffusionXL"
    )
    assert "keys x, y, z" in attempt(three)
    assert "does not exist" in attempt(tmp_path / "nowhere.safetensors")
    assert "initializer 'qqq'" in attempt(good, "initializer=qqq")
    assert "magnitude" in attempt(good, "magnitude=biggest")


@pytest.mark.parametrize("adapter", ["lora", "oft"])
def test_an_adapter_goes_with_its_word_and_draws_the_same_picture_there(
    adapter: str,
    training: Compose,
    compose: Compose,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = train(training(f"adapter={adapter}", "adapter.lr=0.05", "trainer.steps=3"))[0]
    ask = ["backbone=toybox", f"backbone.path={checkpoint}", 'prompts=["a {}"]', "seeds=[3]", "steps=2"]
    (images,) = generate(compose("generate", f"run={folder.path}", *ask, "guidance=5"))
    for target in ("a1111", "comfyui"):
        with pytest.raises(InputError, match=f"to={target} has no place for the adapter of .*ann: use to=diffusers"):
            export(config("export", f"run={folder.path}", f"to={target}", f"out={tmp_path / 'out'}"))
    *files, text = export(config("export", f"run={folder.path}", "to=diffusers", f"out={tmp_path / 'out'}"))
    assert all(file.is_file() for file in files)
    pipeline = follow(text, "path/to/toybox", checkpoint, monkeypatch)
    pipeline.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(3)
    theirs = pipeline("a <ann>", num_inference_steps=2, guidance_scale=5.0, generator=random).images[0]
    with Image.open(images / "p000_s3.png") as ours:
        assert max(high for _, high in ImageChops.difference(ours, theirs).getextrema()) <= 1


def test_every_format_and_run_has_a_folder_of_its_own(one: Path, tmp_path: Path) -> None:
    """What the first export wrote is as it was after the others."""
    other = trained_run(tmp_path / "runs", {"rex": vectors(1, 2)}, seed=43)
    out = f"out={tmp_path / 'out'}"
    first = export(config("export", f"run={one}", "to=diffusers", out))
    before = [path.read_bytes() for path in first]
    written = [export(config("export", f"run={run}", f"to={to}", out)) for run in (one, other) for to in TARGETS]
    files = [path for paths in written for path in paths]
    assert len(set(files)) == 12
    assert written[0] == first
    assert first[0] == tmp_path / "out/stable_diffusion-ti-0123456789-seed_42/diffusers/rex.safetensors"
    assert [path.read_bytes() for path in first] == before
    both = export(config("export", f"run={one.parent}", "to=comfyui", out))
    assert len(both) == 4


def test_a_trigger_of_a1111_is_no_ordinary_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained_run(tmp_path / "runs", {"dog": vectors(0)})
    file, text = export(config("export", f"run={run}", "to=a1111", f"out={tmp_path / 'out'}"))
    assert file.name == "dog-ti.safetensors"
    assert "write dog-ti in the prompt" in text.read_text()
    assert "write dog-ti in the prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ('<rex>"); import os #', "its key"),
        ("dog", "its key 'dog'"),
    ],
    ids=["key", "ordinary word"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_key_that_is_no_plain_word_is_not_written_into_a_text_that_is_run(
    key: str, words: str, target: str, one: Path, tmp_path: Path
) -> None:
    save_embeddings(one / "rex" / "embedding.safetensors", key, {"": vectors(0)}, {})
    with pytest.raises(InputError, match=words) as error:
        export(config("export", f"run={one}", f"to={target}", f"out={tmp_path / 'out'}"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["cat\nimport os", 'ti"); import os #', "black & white cat"])
def test_words_of_a_header_are_comments_only(words: str, one: Path, tmp_path: Path) -> None:
    header = {"initializer": words, "method": words}
    save_embeddings(one / "rex" / "embedding.safetensors", "<rex>", {"": vectors(0)}, header)
    *_, text = export(config("export", f"run={one}", "to=diffusers", f"out={tmp_path / 'out'}"))
    comment, *code = text.read_text().splitlines()
    assert comment.startswith(f"# <rex>: {' '.join(words.split())} on ")
    assert not any("os" in line.split() for line in code)


def test_a_word_that_was_exported_is_not_replaced_by_another(one: Path, tmp_path: Path) -> None:
    cfg = config("export", f"run={one}", "to=diffusers", f"out={tmp_path / 'out'}")
    file, _ = export(cfg)
    before = file.read_bytes()
    assert export(cfg)[0] == file  # the same word: nothing is lost
    save_embeddings(one / "rex" / "embedding.safetensors", "<rex>", {"": vectors(5)}, {})
    with pytest.raises(InputError, match=r"rex\.safetensors holds another word of this name: move it, or give out="):
        export(cfg)
    assert file.read_bytes() == before


def test_a_base_model_that_is_not_known_is_unknown(one: Path, tmp_path: Path) -> None:
    for model in ("../templates/object", '"); import os #', "sd16"):
        save_embeddings(one / "rex" / "embedding.safetensors", "<rex>", {"": vectors(0)}, {"base_model": model})
        *_, text = export(config("export", f"run={one}", "to=diffusers", f"out={tmp_path / 'out'}"))
        assert "from_pretrained('path/to/unknown')" in text.read_text()


@pytest.mark.parametrize("pool", ["as_diffusers", "eos"])
def test_where_a_program_pools_at_another_place_it_is_said(
    pool: str, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two.parent / "config.yaml").write_text(f"backbone: {{name: sdxl, pool: {pool}}}")
    for target in TARGETS:
        *_, text = export(config("export", f"run={two}", f"to={target}", f"out={tmp_path / 'out'}"))
        advice = f"Train with backbone.pool={'as_diffusers' if target == 'diffusers' else 'eos'} for it"
        differs = (target == "diffusers") != (pool == "as_diffusers")
        assert (advice in text.read_text()) == differs
        assert (advice in capsys.readouterr().err) == differs


def test_a_pool_that_is_not_known_is_not_written_into_a_text_that_is_run(two: Path, tmp_path: Path) -> None:
    (two.parent / "config.yaml").write_text('backbone: {name: sdxl, pool: "eos\\nimport os"}')
    *_, text = export(config("export", f"run={two}", "to=diffusers", f"out={tmp_path / 'out'}"))
    assert "import os" not in text.read_text()


def test_bad_exports_are_one_line(one: Path) -> None:
    for override, words in (
        ("to=[a1111]", "to is ['a1111']: diffusers, a1111 or comfyui is needed"),
        ("to=invokeai", "to is invokeai: diffusers, a1111 or comfyui is needed"),
        ("run=[a,b]", "run is ['a', 'b']: the path of a folder is needed"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            config("export", f"run={one}", "to=a1111", override)
    with pytest.raises(InputError, match="does not exist"):
        export(config("export", "run=nowhere", "to=a1111"))


def test_an_encoder_without_a_key_is_named() -> None:
    from dti_repro.artifacts.embedding import tensors_for

    with pytest.raises(InputError, match="text encoder 'text_encoder_3': use to=diffusers"):
        tensors_for("a1111", "rex", "<rex>", {**BOTH, "text_encoder_3": torch.ones(1, 4)})
