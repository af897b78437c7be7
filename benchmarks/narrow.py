"""An untrained checkpoint in the shape of a published model, a tenth as wide."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from dti_repro.toybox.language import WORDS
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids


def narrow_sdxl(folder: Path) -> Path:
    """Write Stable Diffusion XL's shape (three UNet levels of 0, 2 and 10 transformer blocks, two text encoders of 12
    and 32 layers, 256 px)."""
    tokenizer = build_tokenizer(WORDS)
    torch.manual_seed(0)
    first = CLIPTextModel(_text(tokenizer, 96, 12))
    second = CLIPTextModelWithProjection(_text(tokenizer, 128, 32, projection_dim=128))
    known = torch.zeros(len(tokenizer), 1)
    known[word_ids(tokenizer, WORDS)] = 1
    for encoder in (first, second):  # the rows of pieces that are no words are zero, as in the toybox
        encoder.get_input_embeddings().weight.data.mul_(known)
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
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=256,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(WORDS),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _text(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, **more: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
