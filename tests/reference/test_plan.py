"""A plan against published figures, against what a training and a drawing do, and against what lies on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dti_repro.backbones.backbone import Backbone
from dti_repro.config import CONF, build
from dti_repro.cost.counting import META, measure
from dti_repro.cost.estimate import Device, Estimate
from dti_repro.cost.memory import peak_bytes
from dti_repro.cost.models import ModelCost, evaluator_cost
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.launch.command_line import compose
from dti_repro.launch.failures import choices
from dti_repro.metrics.catalogue import metric_config
from dti_repro.plan import estimate_run
from dti_repro.training.train_missing import train
from tests.tiny import build_tiny_sdxl
from tests.tiny_flow import build_tiny_sana, build_tiny_wan

PUBLISHED = {  # millions of parameters, from the models' papers and cards
    "sd15": {"text_encoder": 123.06, "denoiser": 859.52, "vae": 83.65},
    "sd21_base": {"text_encoder": 340.39, "denoiser": 865.91, "vae": 83.65},
    "sdxl": {"text_encoder": 123.06, "text_encoder_2": 694.66, "denoiser": 2567.46, "vae": 83.65},
    "sana_1600m": {"text_encoder": 2614.34, "denoiser": 1604.6, "vae": 312.25},
    "sana_4800m": {"text_encoder": 2614.34, "denoiser": 4800, "vae": 312.25},
    "wan_1300m": {"text_encoder": 5680.9, "denoiser": 1419.0, "vae": 126.9},
}
DEVICE = {
    "_target_": "dti_repro.cost.estimate.Device",
    "name": "one",
    "peak_tflops": {"float32": 1.0, "bfloat16": 2.0},
    "memory_gib": 8,
    "utilisation": 0.5,
    "fused": True,
}


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def node(conf: str, **changes: Any) -> dict[str, Any]:
    return {**OmegaConf.to_container(compose("train", [f"backbone={conf}"]).backbone), **changes}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_the_published_numbers_of_parameters(name: str) -> None:
    """And SDXL at 768 px: 3.64 TFLOP a UNet pass, 7.52 with the way back through its activations, 2.61 a photo."""
    cost = ModelCost(node(name), "bf16")
    for part, millions in PUBLISHED[name].items():
        assert cost.parameters[part] / 1e6 == pytest.approx(millions, rel=0.02 if millions == 4800 else 1e-4), part
    if name == "sdxl":
        assert (cost.resolution, cost.image_size()) == (768, (1024, 1024))
        assert cost.denoiser.forward / 1e12 == pytest.approx(3.64, rel=0.005)
        assert cost.denoiser.flops / 1e12 == pytest.approx(7.52, rel=0.005)
        assert cost.photo.flops / 1e12 == pytest.approx(2.61, rel=0.005)
        assert cost.weight_bytes == 2 * sum(cost.parameters.values())


def test_checkpointing_costs_a_pass_and_spares_memory_and_autocast_keeps_norms_in_float32(checkpoint: Path) -> None:
    settings = node("stable_diffusion", path=str(checkpoint), resolution=64, dtype="bfloat16")
    plain = ModelCost(settings, "fp32").denoiser
    spared = ModelCost({**settings, "checkpointing": True}, "fp32").denoiser
    assert spared.forward == plain.forward
    assert plain.backward < spared.backward <= plain.backward + plain.forward
    assert spared.peak < plain.peak
    mixed = ModelCost(settings, "bf16").denoiser
    assert mixed.peak > plain.peak
    assert mixed.flops == plain.flops


def counted(run: Callable[[], object]) -> int:
    """What torch counts while it is really done; attention as its two products, so that nothing is recomputed."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_training_does_what_the_plan_counts(training: Callable[..., DictConfig], checkpoint: Path) -> None:
    """Photos encoded once, samples there and back to the vectors, and the initializer's states: one prompt."""
    cfg = training("method=ti", "trainer.steps=2", "trainer.batch=2", "trainer.accumulate=2")
    cost = ModelCost(OmegaConf.to_container(cfg.backbone, resolve=True), "fp32")
    photos = 3 * cost.photo.flops
    assert counted(lambda: train(cfg)) == 2 * 2 * 2 * cost.sample.flops + photos + cost.text.forward


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Narrow checkpoints, by the backbone's name in conf."""
    makers = {"sana_1600m": build_tiny_sana, "wan_1300m": build_tiny_wan}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


@pytest.mark.parametrize("name", ["sana_1600m", "wan_1300m"])
def test_generation_does_what_the_plan_counts(name: str, whole: Mapping[str, Path]) -> None:
    """A sample there and back, and two images: their prompts, the empty one, two steps with guidance."""
    side = 64
    settings = node(name, path=str(whole[name]), resolution=side, dtype="float32")
    settings.pop("generation")
    backbone = build(settings, Backbone)
    cost = ModelCost(settings)
    rows = {n: torch.randn(1, 1, 1, e.dim, requires_grad=True) for n, e in backbone.spec.encoders.items()}
    tokens = backbone.tokenize(["a photo of a <x>"], {"<x>": 1})
    shape = backbone.encode_images(torch.zeros(1, 3, side, side)).mean.shape
    latents, noise = torch.randn(2, *shape).unbind()

    def learn() -> None:
        backbone.loss(latents, noise, torch.tensor([500]), backbone.encode_text(tokens, rows)).sum().backward()

    assert counted(learn) == cost.sample.flops
    vectors = {"<x>": {n: row.detach()[0, 0] for n, row in rows.items()}}
    size = {"height": side, "width": side}
    drawn = counted(lambda: backbone.generate(["a <x>", "my <x>"], vectors, [0, 1], steps=2, guidance=5.0, **size))
    latents, decoding = cost.image(side, side, 2, 5.0)
    plain = ModelCost({**settings, **({"instruction": "none"} if "instruction" in settings else {})})
    negative = 2 * plain.image(side, side, 1, 1.0)[0].flops - plain.image(side, side, 2, 1.0)[0].flops
    assert drawn == 2 * (latents.flops + decoding.flops) + negative


def test_the_plan_s_memory_is_what_torch_allocates(tmp_path: Path) -> None:
    """Its profiler counts every allocation; float32, in which a CPU and a GPU keep the same activations."""
    settings = node("sdxl", path=str(build_tiny_sdxl(tmp_path)), resolution=256, dtype="float32", checkpointing=True)
    settings.pop("generation")
    backbone, cost = build(settings, Backbone), ModelCost(settings)
    rows = {n: torch.randn(1, 1, 1, e.dim, requires_grad=True) for n, e in backbone.spec.encoders.items()}
    tokens = backbone.tokenize(["a photo of a <x>"], {"<x>": 1})
    latents, noise = torch.randn(2, *backbone.encode_images(torch.zeros(1, 3, 256, 256)).mean.shape).unbind()

    def learn() -> None:
        backbone.loss(latents, noise, torch.tensor([500]), backbone.encode_text(tokens, rows)).sum().backward()

    def draw() -> None:
        backbone.generate(["a cat"], {}, [0], steps=1, guidance=5.0, height=256, width=256)

    assert peak_bytes(learn) == pytest.approx(cost.sample.peak, rel=0.05)
    assert peak_bytes(draw) == pytest.approx(max(part.peak for part in cost.image(256, 256, 1, 5.0)), rel=0.05)


def test_peaks_are_what_is_alive_at_once() -> None:
    weight = torch.empty(10, 10, device=META)

    def chain() -> None:
        a = torch.empty(100, device=META)  # 400 bytes
        b = a * 2
        del a
        (b * 3).view(10, 10) @ weight.T

    assert measure(chain, [weight]).peak == 3 * 400
    query = torch.empty(1, 2, 512, 8, device=META, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    cost = measure(lambda: attend(query, query, query).sum(), [query])
    assert cost.forward == 2 * (2 * 2 * 512 * 512 * 8)  # two products, two heads, two operations
    assert cost.backward == 2 * cost.forward
    assert cost.peak < 512 * 512 * 4  # no matrix of scores


@pytest.mark.parametrize(("metric", "millions"), [("dinov2", 86.58), ("siglip", 203.8), ("clip_t", 151.28)])
def test_evaluators_have_the_published_numbers_of_parameters(metric: str, millions: float) -> None:
    found = evaluator_cost(metric_config(metric))
    assert found["parameters"] / 1e6 == pytest.approx(millions, rel=1e-3)


def test_rows_share_trainings_and_pictures_are_counted_before_there_are_any(
    checkpoint: Path, subjects: Path, tmp_path: Path
) -> None:
    """TI-rescaled is derived from TI, which is trained once. A prompt with {} is drawn for each concept, one that names
    concepts once; both with every seed. A photo is scored where there is a row of references."""
    setup = ("backbone=stable_diffusion", f"backbone.path={checkpoint}", f"concepts.root={subjects}")
    names = (*setup, "concepts.names=[ann,bob]", "trainer.steps=3", "trainer.batch=2", "trainer.accumulate=2")
    generate = ('prompts=["a {}","{ann} beside {bob}"]', "seeds=[0,1]")
    bound = RowSpec("references", "References", bound="references")
    rows = (RowSpec("ti", "TI", ("method=ti",)), RowSpec("rescaled", "TI-rescaled", ("method=ti_rescaled",)), bound)
    experiment = Experiment("x", "X", (), {"clip_t": "CLIP-T"}, "", (), rows, generate=generate)
    run = ExperimentRun(experiment, str(tmp_path), names[:4], names[4:]).choose_concepts(None)
    report, plan = estimate_run(run, DEVICE, 1.5)
    train, draw, score = plan["stages"]
    photos = 6 * plan["model"]["photo"]["forward"]
    sample = plan["model"]["sample"]["forward"] + plan["model"]["sample"]["backward"]
    assert (train["total"], train["flops"]) == (2, 2 * 3 * 4 * sample + photos)
    assert train["hours"] == pytest.approx(train["flops"] / 0.5e12 / 3600)
    assert plan["step"]["flops"] == 4 * sample
    assert draw["total"] == 2 * (2 + 1) * 2
    assert draw["flops"] == draw["total"] * plan["image"]["flops"]
    assert plan["image"]["seconds"] == pytest.approx(plan["image"]["flops"] / 0.5e12)
    assert plan["disk"]["images"] == draw["total"] * 16 * 16 * 1.5
    assert score["total"] == draw["total"] + 6
    assert score["flops"] == score["total"] * plan["evaluators"][0]["image"]
    assert "DOES NOT FIT" not in report


def test_memory_says_how_many_would_fit(training: Callable[..., DictConfig]) -> None:
    cfg = training("method=ti", "trainer.batch=4096", "trainer.pack=2")
    estimate = Estimate(cfg, build({**DEVICE, "memory_gib": 0.01}, Device, "device"))
    estimate.add_trainings([cfg], concepts=3, photos=9)
    (memory,) = estimate.data["memory"]
    room = 0.9 * 0.01 * 2**30 - memory["weights"]
    assert (memory["at_once"], memory["total"]) == (8192, memory["weights"] + 8192 * memory["each"])
    assert memory["fitting"] * memory["each"] <= room < (memory["fitting"] + 1) * memory["each"]
    assert f"DOES NOT FIT into 90% of 0.01 GiB, {memory['fitting']} samples would" in estimate.report()


def test_metrics_share_a_network_only_if_they_have_the_same_weights(training: Callable[..., DictConfig]) -> None:
    estimate = Estimate(training("method=ti"), build(DEVICE, Device, "device"))
    clip_i, clip_t, other = (metric_config(name) for name in ("clip_i", "clip_t", "clip_t"))
    other["encoder"]["pretrained"] = "laion2b"
    estimate.add_scores({"clip_i": clip_i, "clip_t": clip_t, "other": other}, images=10)
    first, second = estimate.data["evaluators"]
    assert estimate.data["stages"][0]["flops"] == 10 * (first["image"] + second["image"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"utilisation": 0}, "device.utilisation is 0"),
        ({"utilisation": "half"}, "device.utilisation is half"),
        ({"peak_tflops": {"float32": 1.0}}, "device.peak_tflops has no bfloat16"),
        ({"memory_gib": -1}, "device.memory_gib is -1"),
    ],
)
def test_a_device_that_is_none_is_one_clear_line(change: dict[str, Any], words: str) -> None:
    settings = yaml.safe_load((CONF / "device" / "h100.yaml").read_text())
    with pytest.raises(InputError, match=words):
        build({**settings, **change}, Device, "device")


@pytest.mark.parametrize("name", choices("device"))
def test_every_device_can_be_planned_for(name: str) -> None:
    assert isinstance(build(yaml.safe_load((CONF / "device" / f"{name}.yaml").read_text()), Device), Device)


def test_a_model_that_is_nowhere_is_one_clear_line(tmp_path: Path, checkpoint: Path) -> None:
    settings = node("stable_diffusion", path="someone/else", name="mine")
    with pytest.raises(InputError, match=r"backbones/published has no mine\.yaml"):
        ModelCost(settings, "fp32")
    with pytest.raises(InputError, match="no model_index"):
        ModelCost({**settings, "path": str(tmp_path)}, "fp32")
    shutil.copytree(checkpoint, tmp_path / "damaged")
    (tmp_path / "damaged" / "unet" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"damaged: unet cannot be loaded"):
        ModelCost({**settings, "path": str(tmp_path / "damaged")}, "fp32")
