"""Narrow, untrained checkpoints in Stable Diffusion's formats, small enough to be built in every test
session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
)

from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.published import published_file
from dti_repro.backbones.untrained_tokenizers import clip_tokenizer
from dti_repro.toybox.language import WORDS
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids

DIM = 32
DIM_2 = 48  # of SDXL's second encoder


def build_tiny_sd(folder: Path, prediction: str = "v_prediction", seed: int = 0) -> Path:
    """Write the checkpoint to `folder`: CLIP text encoder d = 32 of 2 layers with the toybox's tokenizer
    (rows of pieces that are no words are zero), AutoencoderKL of factor 4, UNet (32, 64), 16 px images, 4 x 4
    latents of 4 channels."""
    tokenizer = build_tokenizer(WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=DIM,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        table = text_encoder.get_input_embeddings().weight.data
        words = word_ids(tokenizer, WORDS)
        table.zero_()
        # Norms differ from word to word, as in a real vocabulary.
        table[words] = torch.randn(len(words), DIM) * 0.05 * torch.linspace(0.7, 1.3, len(words))[:, None]
        vae = _vae()
        unet = _unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=DIM,
            attention_head_dim=16,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    return _save(folder, tokenizer, text_encoder, vae, unet, scheduler)


def build_tiny_clip_sd(folder: Path, openclip: bool, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, that of Stable Diffusion 1.5 or (openclip) 2.1-base but for its widths: CLIP
    text encoder d = 32 of 2 layers with CLIP's vocabulary and the eos_token_id 2 of the published configs; the VAE
    and the image size of `build_tiny_sd`; the published scheduler, which predicts the noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(_clip_config(DIM, "gelu" if openclip else "quick_gelu"))
        vae = _vae()
        unet = _unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=DIM,
            attention_head_dim=(2, 4) if openclip else 4,
            use_linear_projection=openclip,
        )
    scheduler = published_scheduler("sd15")
    tokenizer = clip_tokenizer("!" if openclip else "<|endoftext|>")
    return _save(folder, tokenizer, text_encoder, vae, unet, scheduler)


def build_tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`: CLIP text encoders d = 32 and d = 48 of 2 layers with CLIP's
    vocabulary and the eos_token_id 2 of the published configs, and their two ways to pad; the VAE and the image
    size of `build_tiny_sd`; a UNet with pooled text and sizes; the published scheduler."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = CLIPTextModel(_clip_config(DIM, "quick_gelu"))
        second = CLIPTextModelWithProjection(_clip_config(DIM_2, "gelu"))
        vae = _vae()
        unet = _unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=DIM + DIM_2,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=DIM_2 + 6 * 8,
        )
    scheduler = published_scheduler("sdxl")
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=clip_tokenizer("<|endoftext|>"),
        tokenizer_2=clip_tokenizer("!"),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def published_scheduler(name: str) -> SchedulerMixin:
    """Return the scheduler of a backbone with published configs."""
    config = read_yaml(published_file(name))["scheduler"]
    return getattr(diffusers, config.pop("_class_name"))(**config)


def _save(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
) -> Path:
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, **checker).save_pretrained(folder)
    return folder


def _unet(**options: Any) -> UNet2DConditionModel:
    """Two levels, of 4 x 4 latents."""
    shape = {"sample_size": 4, "in_channels": 4, "out_channels": 4, "norm_num_groups": 8}
    return UNet2DConditionModel(layers_per_block=1, block_out_channels=(32, 64), **shape, **options)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def _clip_config(dim: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=dim,
        intermediate_size=2 * dim,
        projection_dim=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
