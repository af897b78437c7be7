"""HPSv2 and DreamSim are what their libraries give, on narrow random checkpoints in the published formats."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics.base import Sample, ScoreMetric
from dti_repro.metrics.catalogue import metric_config, metric_identity

TEXTS = ["a dog on a beach", "a mug"]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(4)]


def config_of(name: str, **encoder: object) -> dict:
    return OmegaConf.to_container(OmegaConf.merge(metric_config(name), {"encoder": encoder}))


@pytest.fixture(scope="module")
def hps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A narrow CLIP, its random weights in a file of HPSv2's form in a hub's cache, and the keys that name both."""
    folder = tmp_path_factory.mktemp("hub")
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "tiny-hps.json").write_text(json.dumps(model))
    open_clip.add_model_config(folder / "tiny-hps.json")
    torch.manual_seed(0)
    repository = folder / "models--xswu--HPSv2"
    file = repository / "snapshots" / ("0" * 40) / "HPS_v2.1_compressed.pt"
    file.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.save({"state_dict": open_clip.create_model("tiny-hps").state_dict(), "epoch": 3}, file)
    return {"file": file, "cache": folder, "checkpoint": "tiny-hps", "preprocess": {"resize": [32, 32]}}


@torch.inference_mode()
def test_hpsv2_is_the_product_of_both_features_of_its_published_file(
    hps: dict, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hps["cache"]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    keys = {key: hps[key] for key in ("checkpoint", "preprocess")}
    metric = build(config_of("hpsv2", **keys), ScoreMetric)
    found = metric.score(images[:2], [Sample("dog", text) for text in TEXTS])

    model, _, transform = open_clip.create_model_and_transforms("tiny-hps")
    model.load_state_dict(torch.load(hps["file"])["state_dict"])
    pixels = torch.stack([transform(image) for image in images[:2]])
    image, text, _ = model.eval()(pixels, open_clip.get_tokenizer("tiny-hps")(TEXTS))
    assert torch.allclose(found, (image @ text.T).diagonal(), atol=1e-6)


def test_scores_are_taken_again_when_a_named_file_of_weights_changes(hps: dict, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    identities = []
    for content in (b"1", b"2"):
        file.write_bytes(content)
        identities.append(metric_identity(config_of("hpsv2", pretrained=str(file))))
    assert len(set(identities)) == 2


def test_a_hub_s_file_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, words in {
        "hub:nobody/nothing/a.pt": "nobody/nothing/a.pt",
        "hub:a.pt": "hub:<owner>/<name>/<file>",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            build(config_of("hpsv2", pretrained=name), ScoreMetric)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def dreamsim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of DreamSim's zip with a random ViT of width 32: the package's own class, its LoRA in peft's form."""
    vit = pytest.importorskip("dreamsim.feature_extraction.vision_transformer")
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("dreamsim")
    torch.manual_seed(0)
    network = narrow(vit)(patch_size=32)
    network.pos_drop = torch.nn.LayerNorm(32)
    weights = {**network.state_dict(), "proj": torch.randn(32, 16)}
    torch.save({"state_dict": weights}, folder / "open_clip_vitb32_pretrain.pth.tar")

    class Holder(torch.nn.Module):
        """Gives the weights the names that they have in the package's model."""

        def __init__(self) -> None:
            super().__init__()
            self.extractor_list = torch.nn.ModuleList([torch.nn.ModuleDict({"model": network})])

    adapted = get_peft_model(Holder(), LoraConfig(r=2, lora_alpha=4, target_modules=["qkv"], lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(folder / "open_clip_vitb32_single_lora")
    return folder


def narrow(vit):
    """vit_base with two layers of width 32."""
    return lambda patch_size: vit.VisionTransformer(
        patch_size=patch_size, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, qkv_bias=True
    )


@torch.inference_mode()
def test_dreamsim_is_one_minus_the_distance_of_its_own_package(
    dreamsim_folder: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dreamsim
    from dreamsim.feature_extraction import load_open_clip_as_dino, vision_transformer

    monkeypatch.setattr(load_open_clip_as_dino, "vit_base", narrow(vision_transformer))
    metric = build(config_of("dreamsim", checkpoint=f"local-dir:{dreamsim_folder}"), ScoreMetric)
    metric.set_references("dog", images[2:])
    found = metric.score(images[:2], [Sample("dog", "a dog")] * 2)

    model, preprocess = dreamsim.dreamsim(True, "cpu", str(dreamsim_folder), dreamsim_type="open_clip_vitb32")
    pixels = [preprocess(image) for image in images]
    distances = [[model(pixels[i], pixels[j]).item() for j in (2, 3)] for i in (0, 1)]
    expected = 1 - torch.tensor(distances).mean(dim=1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-4


def test_dreamsim_s_other_weights_are_refused() -> None:
    pytest.importorskip("dreamsim")
    with pytest.raises(InputError, match=r"give https://github\.com/ssundaram21/\S+\.zip, or local-dir"):
        build(config_of("dreamsim", checkpoint="https://example.org/a.zip"), ScoreMetric)
