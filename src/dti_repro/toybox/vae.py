"""Pretraining of the toybox's AutoencoderKL: 48 x 48 pixels to 12 x 12 latents of at most 8 channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from dti_repro.toybox.dataset import RenderedScenes
from dti_repro.toybox.drawing import SIZE
from dti_repro.toybox.latent_axes import in_pixel_axes, without_spread
from dti_repro.toybox.training import Stage


class Autoencoder(Stage):
    """Trained on squared and absolute error plus the error of neighbouring differences, which keeps outlines sharp."""

    def __init__(
        self,
        data: RenderedScenes,
        held_out: RenderedScenes,
        *,
        channels: tuple[int, ...] = (24, 64, 128),
        latent_channels: int = 8,
        kl_weight: float = 1e-7,
        keep_axes: bool = False,
        batch: int = 32,
        seed: int = 0,
    ):
        self.data, self.held_out, self.batch, self.seed = data, held_out, batch, seed
        self.kl_weight, self.keep_axes = kl_weight, keep_axes
        torch.manual_seed(seed)
        self.model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=SIZE,
            mid_block_add_attention=False,
        ).to(memory_format=torch.channels_last)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, step])
        index = np.sort(rng.integers(self.data.count, size=self.batch))
        pixels = as_pixels(self.data.images[index]).to(self.device)
        if rng.uniform() < 0.5:
            pixels = pixels.flip(3)
        posterior = self.model.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step)).to(self.device)
        decoded = self.model.decode(posterior.mean + posterior.std * noise).sample.float()
        mse, kl = F.mse_loss(decoded, pixels), posterior.kl().float().mean()
        error = decoded - pixels
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss = mse + 0.2 * error.abs().mean() + 0.2 * edges + self.kl_weight * kl
        return loss, {"psnr": round(float(10 * torch.log10(4 / mse.detach())), 2), "kl": round(float(kl), 1)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        psnr = []
        for part in as_pixels(self.held_out.images[:512]).to(self.device).split(64):
            mse = (self.model.decode(self.model.encode(part).latent_dist.mean).sample - part).square().mean((1, 2, 3))
            psnr.append(10 * torch.log10(4 / mse))
        return {"psnr_db": float(torch.cat(psnr).mean())}

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Save with latents in pixel axes (:mod:`dti_repro.toybox.latent_axes`), scaled to unit variance.

        The posterior is saved without its spread: an encoder this small learns a wide one, and noise that the
        denoiser never saw would be added to every reference photo. With ``keep_axes`` latents stay where they are, so
        that a denoiser of the weights that this training began with can be trained on.
        """
        pixels = as_pixels(self.held_out.images[:256])
        model = self.model.cpu()
        model = without_spread(model) if self.keep_axes else in_pixel_axes(model, pixels)
        model.register_to_config(scaling_factor=round(1 / float(model.encode(pixels).latent_dist.mean.std()), 4))
        model.to(torch.float16).save_pretrained(folder / "vae")

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote. The posterior, which was saved without its spread, starts narrow."""
        self.model = AutoencoderKL.from_pretrained(folder / "vae").to(memory_format=torch.channels_last)
        with torch.no_grad():
            self.model.quant_conv.bias[self.model.config.latent_channels :] = -6


def as_pixels(images: np.ndarray) -> Tensor:
    """Return uint8 (n, 48, 48, 3) as (n, 3, 48, 48) floats in [-1, 1], channels last in memory."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
