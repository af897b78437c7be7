"""Untrained checkpoints in the shape of published models, a tenth as wide."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from dti_repro.toybox.language import WORDS
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def narrow_sd(folder: Path) -> Path:
    """Write Stable Diffusion 1.x's shape (four UNet levels, a VAE of factor 8, 256 px)."""
    tokenizer = build_tokenizer(WORDS)
    torch.manual_seed(0)
    text = CLIPTextModel(_text(tokenizer, 96, 12))
    _only_words(text, tokenizer)
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 128, 128), cross_attention_dim=96, norm_num_groups=8
    )
    scheduler = DDPMScheduler(**BETAS, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    parts = {"vae": _vae(), "text_encoder": text, "tokenizer": tokenizer, "unet": unet, "scheduler": scheduler}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts, **none).save_pretrained(folder)
    return folder


def narrow_sdxl(folder: Path) -> Path:
    """Write Stable Diffusion XL's shape (three UNet levels of 0, 2 and 10 transformer blocks, two text encoders of 12
    and 32 layers, 256 px)."""
    tokenizer = build_tokenizer(WORDS)
    torch.manual_seed(0)
    first = CLIPTextModel(_text(tokenizer, 96, 12))
    second = CLIPTextModelWithProjection(_text(tokenizer, 128, 32, projection_dim=128))
    for encoder in (first, second):
        _only_words(encoder, tokenizer)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(2, 4, 8),
        cross_attention_dim=224,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + 128,
    )
    scheduler = EulerDiscreteScheduler(**BETAS, beta_schedule="scaled_linear", steps_offset=1)
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(WORDS),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _text(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, **more: int) -> CLIPTextConfig:
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    context = tokenizer.model_max_length
    return CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=context, **sizes, **special, **more)


def _only_words(encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the rows of pieces that are no words to zero, as in the toybox."""
    table = encoder.get_input_embeddings().weight.data
    known = torch.zeros(len(table), 1)
    known[word_ids(tokenizer, WORDS)] = 1
    table.mul_(known)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=256,
    )
