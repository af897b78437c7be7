"""A checkpoint in diffusers' format as one file in the layout of the original code (CompVis, Stability AI)."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_single_file(folder: Path, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the weights of tests/tiny.py's checkpoints (a UNet and a text encoder of two blocks) to one file. The
    second text encoder, or that of a UNet with linear projections, is written as OpenCLIP has it."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    upsampler = 1 + any(key.startswith("up_blocks.0.attentions") for key in unet)  # after an attention, if there is one
    found = {f"model.diffusion_model.{_unet_key(key, upsampler)}": rows for key, rows in unet.items()}
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    found |= {f"first_stage_model.{_vae_key(key)}": _vae_rows(key, rows) for key, rows in vae.items()}
    first = load_file(folder / "text_encoder" / "model.safetensors")
    if (folder / "text_encoder_2").is_dir():
        second = load_file(folder / "text_encoder_2" / "model.safetensors")
        found |= _clip("conditioner.embedders.0.transformer.text_model.", first)
        found |= _open_clip("conditioner.embedders.1.model.", second)
    elif unet["mid_block.attentions.0.proj_in.weight"].ndim == 2:
        found |= _open_clip("cond_stage_model.model.", first)
    else:
        found |= _clip("cond_stage_model.transformer.text_model.", first)
    save_file({key: rows.to(dtype).contiguous() for key, rows in found.items()}, file)
    return file


def _unet_key(key: str, upsampler: int) -> str:
    for ours, theirs in ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    if middle := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        part, k, rest = middle.groups()
        place = 1 if part == "attentions" else 2 * int(k)
        return f"middle_block.{place}.{_resnet(rest) if part == 'resnets' else rest}"
    side, block, part, k, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    block, k = int(block), int(k)
    if side == "down":  # a block of one resnet, and of the first one's downsampler
        if part == "downsamplers":
            return f"input_blocks.2.0.{rest.replace('conv', 'op', 1)}"
        return f"input_blocks.{2 * block + 1}.{_place(part)}.{_resnet(rest) if part == 'resnets' else rest}"
    if part == "upsamplers":
        return f"output_blocks.1.{upsampler}.{rest}"
    return f"output_blocks.{2 * block + k}.{_place(part)}.{_resnet(rest) if part == 'resnets' else rest}"


def _place(part: str) -> int:
    return 1 if part == "attentions" else 0


def _resnet(rest: str) -> str:
    name, end = rest.rsplit(".", 1)
    return f"{RESNET[name]}.{end}"


def _vae_key(key: str) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{2 - int(m[1])}.block.{m[2]}", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample", key)


def _vae_rows(key: str, rows: Tensor) -> Tensor:
    return rows[..., None, None] if "attentions" in key and rows.ndim == 2 else rows  # 1 x 1 convolutions there


def _clip(prefix: str, weights: Weights) -> Weights:
    return {prefix + key.removeprefix("text_model."): rows for key, rows in weights.items()}


def _open_clip(prefix: str, weights: Weights) -> Weights:
    """OpenCLIP has queries, keys and values in one matrix, and the projection transposed."""
    weights = {key.removeprefix("text_model."): rows for key, rows in weights.items()}
    found = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": weights.get("text_projection.weight", torch.eye(len(weights["final_layer_norm.bias"]))).T,
    }
    for layer in range(2):
        for end in ("weight", "bias"):
            start, block = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
            parts = [weights[f"{start}self_attn.{name}_proj.{end}"] for name in "qkv"]
            found[f"{block}attn.in_proj_{end}"] = torch.cat(parts)
            found |= {f"{block}{theirs}.{end}": weights[f"{start}{ours}.{end}"] for ours, theirs in OPEN_CLIP.items()}
    return {prefix + key: rows for key, rows in found.items()}
