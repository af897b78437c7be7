"""Turns an autoencoder's latents into axes in which equal distances are equal changes of the picture.

A weak KL term leaves the scale of a latent channel to chance, and channels that the decoder hardly reads come out as
loud as those that hold the colours. A denoiser then spends its loss on what nobody sees. As the latents pass through
linear layers on both sides, any linear change of axes can be folded into these: pictures stay the same, the loss of
the denoiser becomes (on average) that of the pixels.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

LEAST_ENERGY = 0.01  # of the mean over channels; a quieter axis is left out
NO_SPREAD = -30.0  # diffusers' least log variance


@torch.no_grad()
def in_pixel_axes(vae: AutoencoderKL, pixels: Tensor) -> AutoencoderKL:
    """Return a copy whose latents (n, axes, h, w) are centred, uncorrelated, and as far apart as their pictures are.

    The axes are the principal ones of the latents of ``pixels`` (n, 3, height, width) in the decoder's mean pixel
    metric, loudest first; those below ``LEAST_ENERGY`` are dropped. The posterior loses its spread.
    """
    means = vae.encode(pixels).latent_dist.mean
    columns = means.permute(1, 0, 2, 3).flatten(1)
    centre = columns.mean(1)
    lengths, directions = torch.linalg.eigh(_pixel_metric(vae, means))
    root = directions * lengths.clamp(min=0).sqrt() @ directions.T
    energy, axes = torch.linalg.eigh(root @ torch.cov(columns) @ root)
    kept = (energy > LEAST_ENERGY * energy.mean()).flip(0)
    inward = (axes.flip(1)[:, kept].T @ root).double()
    return _folded(vae, inward, torch.linalg.pinv(inward), centre.double())


@torch.no_grad()
def without_spread(vae: AutoencoderKL) -> AutoencoderKL:
    """Return a copy with the same latents, whose posterior has no spread."""
    new = AutoencoderKL.from_config(vae.config)
    new.load_state_dict(vae.state_dict())
    axes = vae.config.latent_channels
    new.quant_conv.weight[axes:] = 0
    new.quant_conv.bias[axes:] = NO_SPREAD
    return new.eval()


def _pixel_metric(vae: AutoencoderKL, means: Tensor) -> Tensor:
    """Return (channels, channels): inner products of the pictures' changes under one small noise in each channel."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(means), 1, *means.shape[2:], generator=generator)
    changes = []
    for channel, small in enumerate(0.1 * means.std((0, 2, 3))):
        step = torch.zeros_like(means)
        step[:, channel : channel + 1] = small * noise
        change = vae.decode(means + step).sample - vae.decode(means - step).sample
        changes.append(change.flatten() / (2 * small))
    stacked = torch.stack(changes)
    return stacked @ stacked.T / noise.square().sum()


def _folded(vae: AutoencoderKL, inward: Tensor, outward: Tensor, centre: Tensor) -> AutoencoderKL:
    """Return the autoencoder of latents ``inward @ (z - centre)``, read as ``outward @ latents + centre``."""
    axes = len(inward)
    new = AutoencoderKL.from_config({**vae.config, "latent_channels": axes})
    old_state = {name: value.double() for name, value in vae.state_dict().items()}
    state = new.state_dict()
    shared = {name: value for name, value in old_state.items() if state[name].shape == value.shape}
    mean_row = slice(0, vae.config.latent_channels)
    quantised, offset = old_state["quant_conv.weight"][mean_row, :, 0, 0], old_state["quant_conv.bias"][mean_row]
    read, read_offset = old_state["post_quant_conv.weight"][:, :, 0, 0], old_state["post_quant_conv.bias"]

    into = inward @ quantised
    encoder = torch.zeros(state["encoder.conv_out.weight"].shape, dtype=torch.double)
    encoder[:axes] = torch.einsum("ab,bchw->achw", into, old_state["encoder.conv_out.weight"])
    encoder_bias = torch.zeros(2 * axes, dtype=torch.double)
    encoder_bias[:axes] = into @ old_state["encoder.conv_out.bias"] + inward @ (offset - centre)
    identity = torch.zeros(state["quant_conv.weight"].shape, dtype=torch.double)
    identity[:axes, :axes, 0, 0] = torch.eye(axes, dtype=torch.double)
    spread = torch.zeros(2 * axes, dtype=torch.double)
    spread[axes:] = NO_SPREAD

    # The constant part goes in before the decoder's padded convolution where the kept axes can say it, so that borders
    # see it as before; the little that they cannot goes into its bias.
    out_of = read @ outward
    constant = read @ centre + read_offset
    shift = torch.linalg.lstsq(out_of, constant[:, None]).solution[:, 0]
    rest = constant - out_of @ shift
    kernel = old_state["decoder.conv_in.weight"]
    state |= shared
    state |= {
        "encoder.conv_out.weight": encoder,
        "encoder.conv_out.bias": encoder_bias,
        "quant_conv.weight": identity,
        "quant_conv.bias": spread,
        "post_quant_conv.weight": torch.eye(axes, dtype=torch.double)[:, :, None, None],
        "post_quant_conv.bias": shift,
        "decoder.conv_in.weight": torch.einsum("achw,cb->abhw", kernel, out_of),
        "decoder.conv_in.bias": old_state["decoder.conv_in.bias"] + kernel.sum((2, 3)) @ rest,
    }
    new.load_state_dict(state)
    return new.eval()
