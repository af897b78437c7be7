"""Pretraining of the toybox's UNet2DConditionModel: latent v-prediction with caption dropout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from rich.progress import track
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dti_repro.artifacts.files import sha256
from dti_repro.errors import InputError
from dti_repro.toybox.dataset import RenderedScenes, kept
from dti_repro.toybox.drawing import SIZE
from dti_repro.toybox.language import caption
from dti_repro.toybox.sampling import WORLD
from dti_repro.toybox.training import Stage
from dti_repro.toybox.vae import as_pixels

DOWNSAMPLE = 4
PARTS = ("tokenizer", "text_encoder", "vae")  # what the UNet is trained with, and drawn with
MID_NOISE = -0.6  # mean of the logit of the time, as a share of the schedule


def noise_schedule() -> DDIMScheduler:
    """Return DDPM's linear schedule with v-prediction; sampling starts at its last step, which is all but pure noise.

    Stable Diffusion's own schedule leaves enough signal there that 12 x 12 latents would give their mean away.
    """
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Denoiser(Stage):
    """Reads the frozen text encoder and autoencoder from ``parts``; latents are encoded once and kept in memory.

    Every image has several captions; ``dropout`` of a batch is trained without one, for classifier-free guidance.
    Scenes with an accessory, the smallest thing that a caption asks for, are drawn ``accessory_weight`` times as often.
    ``mid_noise`` of a batch has times from a logit-normal distribution (Stable Diffusion 3, equation 19) around a third
    of the schedule, where outlines and patterns are decided; the others are uniform.
    """

    def __init__(
        self,
        data: RenderedScenes,
        held_out: RenderedScenes,
        parts: str,
        cache: str,
        *,
        channels: tuple[int, ...] = (64, 128, 160),
        attention: tuple[bool, ...] = (False, True, True),
        heads: int = 4,
        captions_per_image: int = 2,
        dropout: float = 0.1,
        accessory_weight: float = 1.0,
        mid_noise: float = 0.0,
        batch: int = 64,
        seed: int = 0,
    ):
        self.data, self.held_out, self.batch, self.seed, self.dropout = data, held_out, batch, seed, dropout
        self.captions_per_image, self.mid_noise = captions_per_image, mid_noise
        weight = np.ones(data.count)
        if accessory_weight != 1.0:
            weight[[data.scene(i).accessory != "none" for i in range(data.count)]] = accessory_weight
        self.often = np.cumsum(weight) / np.sum(weight)
        self.parts = Path(parts)
        self.tokenizer = CLIPTokenizer.from_pretrained(self.parts / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(self.parts / "text_encoder", dtype=torch.float32).eval()
        self.vae = AutoencoderKL.from_pretrained(self.parts / "vae", torch_dtype=torch.float32).eval()
        self.latents = self._latents(Path(cache))
        scheduler = noise_schedule()
        self.signal = scheduler.alphas_cumprod.sqrt().float()
        self.noise = (1 - scheduler.alphas_cumprod).sqrt().float()
        torch.manual_seed(seed)
        kinds = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention]
        self.model = UNet2DConditionModel(
            sample_size=SIZE // DOWNSAMPLE,
            in_channels=self.vae.config.latent_channels,
            out_channels=self.vae.config.latent_channels,
            down_block_types=tuple(kinds),
            up_block_types=tuple(k.replace("Down", "Up") for k in reversed(kinds)),
            block_out_channels=tuple(channels),
            layers_per_block=1,
            cross_attention_dim=self.text_encoder.config.hidden_size,
            attention_head_dim=heads,  # diffusers reads this as the number of heads
            norm_num_groups=16,
        ).to(memory_format=torch.channels_last)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        index = self.often.searchsorted(rng.uniform(size=self.batch), side="right")
        latents = self.latents[torch.from_numpy(index)].float().to(self.device)
        variant = rng.integers(self.captions_per_image, size=self.batch)
        kept = rng.uniform(size=self.batch) >= self.dropout
        captions = [self._caption(i, v) if k else "" for i, v, k in zip(index, variant, kept, strict=True)]
        states = self._encode(captions)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        # Stratified over the batch: the same distribution, less variance.
        u = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        peaked = torch.sigmoid(MID_NOISE + torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))
        chosen = torch.rand(self.batch, generator=generator) < self.mid_noise
        t = (torch.where(chosen, peaked, u) * len(self.signal)).long()
        t = t.clamp(max=len(self.signal) - 1)  # a sum in float32 can round up to the end
        a, s = self._levels(t)
        noisy = (a * latents + s * noise).to(memory_format=torch.channels_last)
        predicted = self.model(noisy, t.to(self.device), states, return_dict=False)[0].float()
        return (predicted - (a * noise - s * latents)).square().mean(), {}

    def evaluate(self) -> dict[str, float]:
        return {"loss": float(np.mean([self._held_out_loss(k) for k in range(8)]))}

    def save(self, folder: Path) -> None:
        model = UNet2DConditionModel.from_config(self.model.config)
        model.load_state_dict(self.model.state_dict())
        model.to(torch.float16).save_pretrained(folder / "unet", max_shard_size="14MB")
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.model,
            scheduler=noise_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.scheduler.save_pretrained(folder / "scheduler")
        pipeline.register_to_config(unet=("diffusers", "UNet2DConditionModel"))
        pipeline.save_config(folder)
        for part in PARTS:
            if not (folder / part).exists():  # the pipeline's config names them
                shutil.copytree(self.parts / part, folder / part)

    def load(self, folder: Path) -> None:
        """Begin from the UNet in ``folder``; attention that it lacks begins with zero output, so it draws as it did."""
        saved = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
        own = self.model.state_dict()
        added = [name for name in own if name not in saved]
        same = all(name in own and own[name].shape == weight.shape for name, weight in saved.items())
        if not same or any(".attentions." not in name for name in added):
            raise InputError(f"{folder / 'unet'} is of another architecture than stage.network")
        self.model.load_state_dict(saved, strict=False)
        for name in added:
            if ".proj_out." in name:
                torch.nn.init.zeros_(self.model.get_parameter(name))

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of signal and of noise at timesteps (batch,), shaped to multiply latents."""
        return tuple(level[t].view(-1, 1, 1, 1).to(self.device) for level in (self.signal, self.noise))

    def _caption(self, index: int, variant: int) -> str:
        return caption(self.data.scene(int(index)), np.random.default_rng([self.seed, 2, int(index), int(variant)]))

    @torch.no_grad()
    def _encode(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
        return self.text_encoder.to(self.device)(tokens.to(self.device)).last_hidden_state

    @torch.no_grad()
    def _held_out_loss(self, part: int) -> float:
        latents = self._encode_images(self.held_out, np.arange(64 * part, 64 * part + 64)).float().to(self.device)
        rng = np.random.default_rng([self.seed, 3, part])
        states = self._encode([caption(self.held_out.scene(64 * part + i), rng) for i in range(64)])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(part)).to(self.device)
        t = ((torch.arange(64) + 0.5) / 64 * len(self.signal)).long()
        a, s = self._levels(t)
        predicted = self.model(a * latents + s * noise, t.to(self.device), states).sample
        return float((predicted - (a * noise - s * latents)).square().mean())

    def _latents(self, cache: Path) -> Tensor:
        encoder = sha256(self.parts / "vae" / "diffusion_pytorch_model.safetensors")[:10]
        path = cache / f"latents-{encoder}-world{WORLD}-{self.data.stream}-{self.data.count}.npy"

        def encoded() -> np.ndarray:
            parts = np.split(np.arange(self.data.count), range(250, self.data.count, 250))
            latents = [self._encode_images(self.data, part) for part in track(parts, "encoding latents")]
            return torch.cat(latents).numpy()

        return torch.tensor(kept(path, encoded))

    @torch.no_grad()
    def _encode_images(self, scenes: RenderedScenes, index: np.ndarray) -> Tensor:
        pixels = as_pixels(scenes.images[index]).to(memory_format=torch.channels_last)
        mean = self.vae.encode(pixels).latent_dist.mean
        return (mean * self.vae.config.scaling_factor).to(torch.float16)
