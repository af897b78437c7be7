"""Adapters that cannot be used, by their settings or as files from elsewhere, are one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from dti_repro.adapters.folder import CONFIG, HEADER, WEIGHTS, adapter_folder, adapter_sha256
from dti_repro.artifacts.embedding import load_embedding, save_embeddings
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.load import load_backbone
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.interpolate import interpolate
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["adapter=lora", "adapter.rank=0"], "adapter.rank is 0"),
        (["adapter=lora", "adapter.rank=2.5"], "adapter.rank is 2.5"),
        (["adapter=lora", "adapter.alpha=-1"], "adapter.alpha is -1"),
        (["adapter=lora", "adapter.alpha=big"], "adapter.alpha is big"),
        (["adapter=lora", "adapter.lr=0"], "adapter.lr is 0"),
        (["adapter=lora", "adapter.lr=nan"], "adapter.lr is nan"),
        (["adapter=lora", "adapter.weight_decay=-1"], "adapter.weight_decay is -1"),
        (["adapter=lora", "adapter.targets=[]"], "adapter.targets is"),
        (["adapter=lora", "adapter.targets=to_q"], "adapter.targets is to_q: a list of layers' names"),
        (["adapter=lora", "adapter.targets=['.*']"], r"adapter.targets is \['\.\*'\]"),
        (["adapter=lora", "adapter.objective.beta=0"], "adapter.objective.beta is 0"),
        (["adapter=lora", "adapter.objective.prompt=none"], "adapter.objective.prompt is none: class or word"),
        (["adapter=oft", "adapter.r=0"], "adapter.r is 0"),
        (["optim.lr=0"], "optim.lr is 0"),
        (["adapter=oft", "optim.lr=0"], "optim.lr is 0"),  # a step of length 0 is none of the sphere's
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_settings_are_one_line_before_a_model_is_loaded(
    keys: list[str], words: str, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=words) as error:
        train(training(*keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["adapter=lora", "adapter.targets=[to_x]"], r"adapter\.targets \[to_x\] does not fit UNet2DConditionModel"),
        (["adapter=oft", "adapter.r=64"], r"does not fit .*Invalid `r` \(64\)"),  # some are 64 wide, others 32
        (["adapter=lora", "adapter.targets=[to_q,attn2]"], r"adapter\.targets \[to_q, attn2\] does not fit"),
    ],
)
def test_what_does_not_fit_the_denoiser_is_one_line_and_leaves_it_as_it_was(
    keys: list[str], words: str, training: Training
) -> None:
    cfg = training(*keys)
    modules = [name for name, _ in load_backbone(cfg.backbone, "cpu").named_modules()]
    with pytest.raises(InputError, match=words) as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert [name for name, _ in load_backbone(cfg.backbone, "cpu").named_modules()] == modules


def seal(folder: ConceptFolder) -> None:
    """Make the embedding vouch for the adapter as it lies there now, as a file from elsewhere would."""
    placeholder, vectors, header = load_embedding(folder.embedding)
    header[HEADER] = adapter_sha256(adapter_folder(folder.embedding))
    save_embeddings(folder.embedding, placeholder, {"": vectors}, {k: v for k, v in header.items() if k != "format"})


def test_an_adapter_from_elsewhere_is_data(training: Training, compose: Callable[..., DictConfig]) -> None:
    folder = train(training("adapter=lora", "trainer.steps=1"))[0]
    place = adapter_folder(folder.embedding)
    draw = compose("generate", f"run={folder.path}", "prompts=['a {} on the beach']", "steps=2")
    good_weights, good_config = load_file(place / WEIGHTS), json.loads((place / CONFIG).read_text())

    def attempt(*, config: dict | None = None, rows: dict[str, Tensor] | None = None, sealed: bool = True) -> str:
        if config is not None:
            (place / CONFIG).write_text(json.dumps({**good_config, **config}))
        if rows is not None:
            save_file(rows, place / WEIGHTS)
        if sealed:
            seal(folder)
        with pytest.raises(InputError) as error:
            generate(draw)
        assert "\n" not in str(error.value)
        assert not any(folder.images.rglob("*.png"))
        save_file(good_weights, place / WEIGHTS)
        (place / CONFIG).write_text(json.dumps(good_config))
        return str(error.value)

    name, rows = next(iter(sorted(good_weights.items())))
    assert "is not the one" in attempt(rows={**good_weights, name: rows + 1}, sealed=False)
    assert "not finite" in attempt(rows={**good_weights, name: rows * float("nan")})
    assert "not finite" in attempt(rows={**good_weights, name: rows.int()})
    assert "is needed" in attempt(rows={**good_weights, name: rows[:, :-1].contiguous()})
    assert "has no" in attempt(rows={key: value for key, value in good_weights.items() if key != name})
    assert "has a" in attempt(rows={**good_weights, "base_model.model.conv_in.weight": rows.clone()})
    assert "is needed" in attempt(config={"r": 8})
    assert "from 0 to 4096" in attempt(config={"r": 10**9})
    assert "from 0 to 4096" in attempt(config={"r": "os.system"})
    assert "megatron_core" in attempt(config={"megatron_core": "antigravity"})
    assert "use_dora" in attempt(config={"use_dora": True})
    assert "peft_type" in attempt(config={"peft_type": "PREFIX_TUNING"})
    assert "target_modules is .*: a list" in attempt(config={"target_modules": ".*"})
    assert "does not fit" in attempt(config={"target_modules": ["to_x"]})
    (place / WEIGHTS).write_bytes(b"\x80\x04pickle")
    assert "not a safetensors file" in attempt()
    (place / WEIGHTS).rename(place / "away")
    assert "is missing" in attempt(sealed=False)
    seal(folder)
    generate(draw)


def test_words_with_adapters_are_not_mixed(training: Training, compose: Callable[..., DictConfig]) -> None:
    ann, bob = train(training("adapter=oft", "concepts.names=[ann,bob]", "trainer.pack=1", "trainer.steps=1"))
    with pytest.raises(InputError, match="<ann> and <bob>, which were learned with an adapter each"):
        generate(compose("generate", f"run={ann.seed_folder}", 'prompts=["a {ann} left of a {bob}"]'))
    with pytest.raises(InputError, match="only words without one can be interpolated"):
        interpolate(compose("interpolate", f"a={ann.path}", f"b={bob.path}"))
