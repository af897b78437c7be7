"""Every metric gives what its library's own model and preprocessing give, on tiny random checkpoints made
here."""

import json
import string
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cosine_similarity
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics.attributes import AttributeAccuracy
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.encoders import TimmEncoder
from dti_repro.metrics.similarity import ReferenceSimilarity

TEXTS = ["a dog on a beach", "a red dog left of a mug", "a mug"]


def photos(n: int, size: tuple[int, int] = (60, 52), seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(n)]


IMAGES, REFERENCES = photos(3), photos(2, seed=1)


def metric_of(name: str, **encoder: object):
    """The metric of conf/metric/<name>.yaml with a few keys of its encoder replaced by the tiny
    checkpoint's."""
    return build(OmegaConf.to_container(OmegaConf.merge(metric_config(name), {"encoder": encoder})), ImageMetric)


def values(metric, concept: str = "dog") -> torch.Tensor:
    metric.set_references(concept, REFERENCES)
    return metric.score(IMAGES, [Sample(concept, text) for text in TEXTS])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    own = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": own}))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("vit"), num_classes=0)


def save_vit(folder: Path, num_classes: int) -> Path:
    arguments = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **arguments)
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder


@torch.inference_mode()
def test_clip_scores_are_open_clips(clip_folder: Path) -> None:
    name = f"local-dir:{clip_folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    image = model.encode_image(torch.stack([transform(i) for i in IMAGES]))
    reference = model.encode_image(torch.stack([transform(i) for i in REFERENCES]))
    text = model.encode_text(tokenizer(TEXTS))

    tiny = {"checkpoint": name, "pretrained": None, "preprocess": None}
    expected = (cosine_similarity(image, reference[:1]) + cosine_similarity(image, reference[1:])) / 2
    assert torch.allclose(values(metric_of("clip_i", **tiny)), expected, atol=1e-6)
    assert torch.allclose(values(metric_of("clip_t", **tiny)), cosine_similarity(image, text), atol=1e-6)


def test_clip_i_and_clip_t_share_one_model(clip_folder: Path) -> None:
    tiny = {"checkpoint": f"local-dir:{clip_folder}", "pretrained": None, "preprocess": None}
    assert metric_of("clip_i", **tiny).encoder is metric_of("clip_t", **tiny).encoder


@torch.inference_mode()
def test_dino_is_timms_cls_token_with_the_fields_preprocessing(vit_folder: Path) -> None:
    preprocess = {"resize": 36, "crop": 32}
    metric = metric_of("dino", checkpoint=f"local-dir:{vit_folder}", preprocess=preprocess)
    model = timm.create_model(f"local-dir:{vit_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(
        (3, 32, 32),
        crop_pct=32 / 36,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    cls = [model.forward_features(torch.stack([transform(i) for i in list_]))[:, 0] for list_ in (IMAGES, REFERENCES)]
    expected = torch.stack([cosine_similarity(cls[0], r[None]) for r in cls[1]]).mean(dim=0)
    assert torch.allclose(values(metric), expected, atol=1e-6)


@torch.inference_mode()
def test_dinov2_is_transformers_cls_token_with_its_own_processor(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    model = Dinov2Model.from_pretrained(tmp_path).eval()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = BitImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 28, "width": 28},
        image_mean=mean,
        image_std=std,
        resample=3,
    )
    pixels = [processor(list_, return_tensors="pt")["pixel_values"] for list_ in (IMAGES, REFERENCES)]
    cls = [model(p).last_hidden_state[:, 0] for p in pixels]
    expected = torch.stack([cosine_similarity(cls[0], r[None]) for r in cls[1]]).mean(dim=0)
    metric = metric_of("dinov2", checkpoint=str(tmp_path), preprocess={"resize": 32, "crop": 28})
    assert torch.allclose(values(metric), expected, atol=2e-3)  # PIL's and torch's bicubic differ by rounding


def small_siglip(vocabulary: int) -> SiglipModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": vocabulary, "max_position_embeddings": 64, "projection_size": 16}
    torch.manual_seed(3)
    return SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}))


@torch.inference_mode()
def test_siglip_is_the_sigmoid_of_transformers_logits(tmp_path: Path) -> None:
    model = small_siglip(40).eval()
    model.logit_scale.fill_(1.2)
    model.logit_bias.fill_(-0.7)
    model.save_pretrained(tmp_path)
    vocabulary = {c: i for i, c in enumerate(["</s>", "[unk]", *string.ascii_lowercase, "."])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="</s>", unk_token="[unk]")
    tokenizer.save_pretrained(tmp_path)

    pixels = SiglipImageProcessor(size={"height": 32, "width": 32})(IMAGES, return_tensors="pt")["pixel_values"]
    prompts = [f"{text}." for text in TEXTS]
    ids = tokenizer(prompts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    expected = model(input_ids=ids, pixel_values=pixels).logits_per_image.diagonal().sigmoid()
    metric = metric_of("siglip", checkpoint=str(tmp_path), preprocess={"resize": [32, 32]})
    assert torch.allclose(values(metric), expected, atol=2e-3)


HEADS = {
    "class": ["dog", "cat"],
    "background": ["beach", "sky"],
    "accessory_color": ["red", "blue"],
    "relation": ["l", "r"],
}


def save_reader(folder: Path) -> Path:
    save_vit(folder, num_classes=8)
    (folder / "heads.json").write_text(json.dumps(HEADS))
    return folder


@torch.inference_mode()
def test_attribute_accuracy_counts_the_expected_attributes_that_timms_logits_name(tmp_path: Path) -> None:
    checkpoint = f"local-dir:{save_reader(tmp_path)}"
    model = timm.create_model(checkpoint, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    logits = model(transform(IMAGES[0])[None])[0]
    read = {n: HEADS[n][int(logits[2 * i : 2 * i + 2].argmax())] for i, n in enumerate(HEADS)}
    wrong = {n: next(label for label in HEADS[n] if label != read[n]) for n in HEADS}

    def score(expect: dict | None) -> float:
        metric = AttributeAccuracy(checkpoint, ["class", "background"])
        return metric.score(IMAGES[:1], [Sample("dog", "a dog", expect)]).item()

    assert score(read) == 1.0
    assert score({**read, "class": wrong["class"]}) == 0.5
    assert score({"class": wrong["class"], "relation": read["relation"]}) == 0.0
    assert np.isnan(score({"relation": read["relation"]}))
    assert np.isnan(score(None))
    with pytest.raises(InputError, match="no class 'horse'"):
        score({"class": "horse"})


def test_an_attribute_that_the_reader_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size"):
        AttributeAccuracy(f"local-dir:{save_reader(tmp_path)}", ["size"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no heads.json in the folder"),
        ("{", r"heads\.json is damaged"),
        ('{"class": "dog"}', r"heads\.json is .*: a mapping is needed"),
        ('{"class": ["dog", "cat"]}', r"heads\.json has 2 labels, its classifier 8 outputs"),
    ],
)
def test_a_damaged_list_of_labels_is_one_clear_line(content: str | None, words: str, tmp_path: Path) -> None:
    file = save_reader(tmp_path) / "heads.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=words):
        AttributeAccuracy(f"local-dir:{tmp_path}", ["class"])


def test_each_image_is_compared_to_its_own_concepts_references(vit_folder: Path) -> None:
    metric = ReferenceSimilarity(TimmEncoder.load(f"local-dir:{vit_folder}"))
    metric.set_references("a", IMAGES[:1])
    metric.set_references("b", IMAGES[1:2])
    assert torch.allclose(metric.score(IMAGES[:2], [Sample("a", ""), Sample("b", "")]), torch.ones(2), atol=1e-6)
    assert (metric.score(IMAGES[:2], [Sample("b", ""), Sample("a", "")]) < 0.9999).all()


def test_an_image_without_a_prompt_has_no_text_score(clip_folder: Path) -> None:
    metric = metric_of("clip_t", checkpoint=f"local-dir:{clip_folder}", pretrained=None, preprocess=None)
    assert metric.score(IMAGES[:2], [Sample("dog", ""), Sample("dog", "a dog")]).isnan().tolist() == [True, False]


def test_siglip_reads_texts_with_its_own_kind_of_tokenizer(tmp_path: Path) -> None:
    """The published checkpoint's is a sentencepiece model, which needs a package of its own."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 20))
    made = {"model_prefix": str(tmp_path / "spiece"), "vocab_size": 20, "pad_id": 1, "eos_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(input=str(tmp_path / "texts.txt"), minloglevel=2, **made)
    small_siglip(20).save_pretrained(tmp_path / "model")
    SiglipTokenizer(str(tmp_path / "spiece.model")).save_pretrained(tmp_path / "model")
    metric = metric_of("siglip", checkpoint=f"local-dir:{tmp_path / 'model'}", preprocess={"resize": [32, 32]})
    assert metric.encoder.texts(TEXTS).shape == (3, 16)
    assert metric.encoder.texts(TEXTS[:1]).ne(metric.encoder.texts(TEXTS[1:2])).any()
