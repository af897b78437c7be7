"""Pretraining of the toybox's AutoencoderKL: 48 x 48 pixels to 12 x 12 x 8 latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from dti_repro.toybox.dataset import RenderedScenes
from dti_repro.toybox.drawing import SIZE
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
        batch: int = 32,
        seed: int = 0,
    ):
        self.data, self.held_out, self.batch, self.seed, self.kl_weight = (
            data,
            held_out,
            batch,
            seed,
            kl_weight,
        )
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
        pixels = as_pixels(self.data.images, index).to(self.device)
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
        pixels = as_pixels(self.held_out.images, np.arange(512)).to(self.device)
        means, psnr = [], []
        for part in pixels.split(64):
            latents = self.model.encode(part).latent_dist.mean
            means.append(latents)
            mse = (self.model.decode(latents).sample - part).square().mean((1, 2, 3))
            psnr.append(10 * torch.log10(4 / mse))
        return {"psnr_db": float(torch.cat(psnr).mean()), "latent_std": float(torch.cat(means).std())}

    def save(self, folder: Path) -> None:
        """The scaling factor in the config makes the latents' standard deviation 1 over the held-out scenes.

        The posterior is saved without its spread: an encoder this small learns a wide one, and noise that the
        denoiser never saw would be added to every reference photo.
        """
        model = AutoencoderKL.from_config(self.model.config)
        model.load_state_dict(self.model.state_dict())
        channels = model.config.latent_channels
        with torch.no_grad():
            model.quant_conv.weight[channels:] = 0
            model.quant_conv.bias[channels:] = -30  # diffusers' least log variance
        model.register_to_config(scaling_factor=round(1 / self.evaluate()["latent_std"], 4))
        model.to(torch.float16).save_pretrained(folder / "vae")

    def load(self, folder: Path) -> None:
        """The posterior, saved without its spread, starts narrow again."""
        self.model.load_state_dict(AutoencoderKL.from_pretrained(folder / "vae").state_dict())
        with torch.no_grad():
            self.model.quant_conv.bias[self.model.config.latent_channels :] = -6


def as_pixels(images: np.ndarray, indices: np.ndarray) -> Tensor:
    """Rows of a uint8 (n, 48, 48, 3) array as (len, 3, 48, 48) floats in [-1, 1], channels last in memory."""
    return torch.from_numpy(images[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1
