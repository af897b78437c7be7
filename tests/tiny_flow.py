"""Narrow, untrained checkpoints of the flow models SANA and Wan, with tokenizers made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLWan,
    SanaPipeline,
    SanaTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import Gemma2Config, Gemma2Model, UMT5Config, UMT5EncoderModel

from dti_repro.backbones.untrained_tokenizers import gemma_tokenizer, t5_tokenizer
from tests.tiny import published_scheduler

DIM = 32
SIDE = 32  # pixels


def build_tiny_sana(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`: Gemma2 d = 32 of 2 layers, AutoencoderDC of factor 4, a transformer of 2
    blocks for 32 px images (8 x 8 latents of 4 channels), the published scheduler."""
    tokenizer = gemma_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=DIM,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                query_pre_attn_scalar=16,
            )
        )
        _spread(text_encoder)
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            downsample_block_type="Conv",
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        )
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=DIM,
            sample_size=SIDE // 4,
            qk_norm="rms_norm_across_heads",
        )
    scheduler = published_scheduler("sana_1600m")
    SanaPipeline(tokenizer, text_encoder, vae, transformer, scheduler).save_pretrained(folder)
    return folder


def build_tiny_wan(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`: UMT5 d = 32 of 2 layers, AutoencoderKLWan of factor 8 and the published
    statistics of 16 channels, a transformer of 2 blocks, the published scheduler."""
    tokenizer = t5_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer) + 5,  # the published table, too, has rows of no word at its end
                d_model=DIM,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                relative_attention_num_buckets=8,
            )
        )
        _spread(text_encoder)
        vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=DIM,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
    scheduler = published_scheduler("wan_1300m")
    WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer).save_pretrained(folder)
    return folder


def _spread(text_encoder: Gemma2Model | UMT5EncoderModel) -> None:
    """Norms differ from word to word, as in a real vocabulary."""
    table = text_encoder.get_input_embeddings().weight.data
    table.copy_(torch.randn(table.shape) * 0.1 * torch.linspace(0.7, 1.3, len(table))[:, None])
