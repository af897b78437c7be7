"""VQAScore is what transformers' own loss and own generation give, on tiny random models of both kinds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    T5Config,
)

from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics.base import Sample, ScoreMetric
from dti_repro.metrics.catalogue import metric_config

TEXTS = ["a dog", "a red mug on a beach", ""]
WORDS = 'a dog red mug on beach Does this figure show " ? Please answer yes or no . Yes'


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in TEXTS]


def tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words that ends a text with </s>, as T5's."""
    vocabulary = {
        word: number for number, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *more, *WORDS.split()]))
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def instruct_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InstructBLIP with a T5, whose layers are one or two of width 16."""
    folder = tmp_path_factory.mktemp("instruct_blip")
    processor = InstructBlipProcessor(
        BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer(), tokenizer(), num_query_tokens=3
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    rows = len(processor.tokenizer)
    text = T5Config(vocab_size=rows, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**sizes, image_size=32, patch_size=16),
        qformer_config=InstructBlipQFormerConfig(**sizes, vocab_size=rows, encoder_hidden_size=16),
        text_config=text,
        num_query_tokens=3,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    return saved(InstructBlipForConditionalGeneration(config), processor, folder)


def saved(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> Path:
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA, a decoder with a chat template."""
    folder = tmp_path_factory.mktemp("llava")
    words = tokenizer("<image>", "USER", ":", "ASSISTANT")
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    part = "{{ '<image>' if c['type'] == 'image' else c['text'] }} "
    chat = "USER: {% for c in messages[0]['content'] %}" + part + "{% endfor %}ASSISTANT:"
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=chat,
        num_additional_image_tokens=1,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=16),
        text_config=LlamaConfig(**sizes, vocab_size=len(words), pad_token_id=0, eos_token_id=1, bos_token_id=None),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(1)
    return saved(LlavaForConditionalGeneration(config), processor, folder)


def scores(folder: Path, images: list[Image.Image]) -> list[float]:
    metric = build({**metric_config("vqa_score"), "checkpoint": f"local-dir:{folder}"}, ScoreMetric)
    return metric.score(images, [Sample("rex", text) for text in TEXTS]).tolist()


@torch.inference_mode()
def test_an_encoder_and_decoder_gives_what_its_own_loss_of_yes_says(
    instruct_blip: Path, images: list[Image.Image]
) -> None:
    model = InstructBlipForConditionalGeneration.from_pretrained(instruct_blip).eval()
    processor = InstructBlipProcessor.from_pretrained(instruct_blip)
    expected = []
    for image, text in zip(images[:2], TEXTS[:2], strict=True):
        question = f'Does this figure show "{text}"? Please answer yes or no.'
        inputs = processor(images=image, text=question, return_tensors="pt")
        labels = processor.tokenizer("Yes", return_tensors="pt").input_ids
        assert labels.shape == (1, 2)  # and the end of the text
        expected.append(torch.exp(-model(**inputs, labels=labels).loss).item())
    found = scores(instruct_blip, images)
    assert found[:2] == pytest.approx(expected, rel=1e-4)
    assert found[0] != pytest.approx(found[1], rel=1e-2)
    assert np.isnan(found[2])


@torch.inference_mode()
def test_a_decoder_gives_the_probability_that_its_own_generation_has_for_yes(
    llava: Path, images: list[Image.Image]
) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = LlavaProcessor.from_pretrained(llava)
    yes = processor.tokenizer.convert_tokens_to_ids("Yes")
    expected = []
    for image, text in zip(images[:2], TEXTS[:2], strict=True):
        chat = f'USER: <image> Does this figure show "{text}"? Please answer yes or no. ASSISTANT:'
        inputs = processor(images=image, text=chat, return_tensors="pt")
        told = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
        expected.append(model.generate(**inputs, **told).scores[0].softmax(-1)[0, yes].item())
    assert scores(llava, images)[:2] == pytest.approx(expected, rel=1e-4)


def test_a_question_without_a_place_for_the_prompt_is_refused(instruct_blip: Path) -> None:
    config = {**metric_config("vqa_score"), "checkpoint": f"local-dir:{instruct_blip}"}
    with pytest.raises(InputError, match=r"question is A dog\?: a text with one \{\} is needed"):
        build({**config, "question": "A dog?"}, ScoreMetric, "metric")
