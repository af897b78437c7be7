"""The evaluators' own pictures: streams of scenes and of individuals that no other part of the toybox sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from dti_repro.artifacts.files import atomic_write, sha256
from dti_repro.toybox.dataset import kept
from dti_repro.toybox.drawing import SIZE, render
from dti_repro.toybox.looks import sample_free
from dti_repro.toybox.sampling import WORLD, sample_scene
from dti_repro.toybox.scene import ATTRIBUTES, Individual, Scene

STREAMS = {"training": 7003, "heldout": 7004}
WIDTHS = [len(labels) for labels in ATTRIBUTES.values()]  # of the heads, in the order of their outputs
ABSENT = -1  # the colour of no hat, in labels
MEAN = STD = 0.5  # of the evaluators' pixels, which are fed in [-1, 1]


class EvaluatorScenes:
    """``individuals`` subjects of a stream, each in ``views`` scenes that have nothing else in common.

    Scene ``i`` shows individual ``i // views`` and is a function of (world, stream, individual, view) alone.
    ``images`` is (individuals * views, 48, 48, 3) uint8, kept on disk and mapped into memory. ``autoencoder`` is the
    folder of an AutoencoderKL: every second view is then what it makes of the render, as generated images are.
    """

    def __init__(
        self,
        stream: str,
        individuals: int,
        views: int,
        cache: str | Path,
        autoencoder: str | None = None,
    ):
        self.stream, self.individuals, self.views = stream, individuals, views
        self.count = individuals * views
        self._path = Path(cache) / f"evaluators-world{WORLD}-{stream}-{individuals}x{views}.npy"
        self.images = kept(self._path, self._rendered)
        if autoencoder is not None:
            weights = sha256(Path(autoencoder) / "diffusion_pytorch_model.safetensors")[:10]
            path = self._path.with_name(f"{self._path.stem}-decoded-{weights}.npy")
            self.images = kept(path, lambda: _decoded(self.images, autoencoder))

    def individual(self, number: int) -> Individual:
        return sample_free(np.random.default_rng([STREAMS[self.stream], WORLD, number]))

    def scene(self, index: int) -> Scene:
        number, view = divmod(index, self.views)
        # Views count from 1: a seed of trailing zeros is the seed without them, and would tie a scene to its subject.
        rng = np.random.default_rng([STREAMS[self.stream], WORLD, number, 1 + view])
        return sample_scene(rng, subject=self.individual(number))

    def labels(self) -> Tensor:
        """Return (count, attributes) int64 indices into ATTRIBUTES; ABSENT where the scene lacks the attribute."""
        return torch.tensor(kept(self._path.with_suffix(".labels.npy"), self._labels))

    def batch(self, size: int, step: int, seed: int) -> np.ndarray:
        """Return the sorted (size,) numbers of a step's scenes: epoch by epoch, so that each is seen equally often."""
        epoch, at = divmod(step * size, self.count - self.count % size)
        order = np.random.default_rng([seed, epoch]).permutation(self.count)
        return np.sort(order[at : at + size])

    def _rendered(self) -> np.ndarray:
        return np.stack([render(self.scene(i)) for i in track(range(self.count), f"rendering {self._path.name}")])

    def _labels(self) -> np.ndarray:
        labels = np.full((self.count, len(ATTRIBUTES)), ABSENT)
        for index in range(self.count):
            shown = self.scene(index).attributes()
            for k, (name, values) in enumerate(ATTRIBUTES.items()):
                if name in shown:
                    labels[index, k] = values.index(shown[name])
        return labels


@torch.no_grad()
def _decoded(renders: np.ndarray, autoencoder: str) -> np.ndarray:
    """Return the renders, every second one decoded from its latents."""
    model = AutoencoderKL.from_pretrained(autoencoder, torch_dtype=torch.float32).eval()
    images = np.array(renders)
    for part in track(np.array_split(np.arange(1, len(images), 2), len(images) // 256 + 1), "decoding"):
        pixels = normalise(to_pixels(images[part])).to(memory_format=torch.channels_last)
        drawn = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        images[part] = ((drawn + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return images


def attribute_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (attributes,): the cross entropy of each attribute over the scenes that have it, divided by the number of
    all. logits: (n, sum of WIDTHS), labels: (n, attributes)."""
    heads = logits.split(WIDTHS, dim=1)
    losses = [
        F.cross_entropy(head, labels[:, k], ignore_index=ABSENT, reduction="sum") / len(labels)
        for k, head in enumerate(heads)
    ]
    return torch.stack(losses)


def save_halves(network: nn.Module, path: Path) -> None:
    """Write the weights of a network as fp16."""
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with atomic_write(path) as temporary:
        save_file(halves, temporary, metadata={"format": "pt"})


def to_pixels(images: np.ndarray) -> Tensor:
    """Turn (n, 48, 48, 3) uint8 into (n, 3, 48, 48) float32 in [0, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def normalise(pixels: Tensor) -> Tensor:
    """Map pixels in [0, 1] to [-1, 1], as the shipped configs tell open_clip and timm."""
    return (pixels - MEAN) / STD


def soften(pixels: Tensor, sigma: float = 0.7, noise: float = 0.02, seed: int = 0) -> Tensor:
    """Blur (sigma in pixels) and add noise: a fixed stand-in for what an autoencoder does to a clean picture."""
    generator = torch.Generator().manual_seed(seed)
    return (_blurred(pixels, sigma) + noise * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


@torch.autocast("cpu", enabled=False)
def augment(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Shift, soften, add noise and change the light of (n, 48, 48, 3) uint8. Return pixels in [0, 1].

    So do a base model's images differ from clean renders. A quarter is only shifted. Colour names and sides stay.
    """
    count = len(images)
    rows, columns = (
        np.clip(np.arange(SIZE)[None] + rng.integers(-2, 3, size=(count, 1)), 0, SIZE - 1) for _ in range(2)
    )
    images = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    clean = to_pixels(images)
    touched = _per_image(rng.uniform(size=count) < 0.75)
    softness = _per_image(rng.uniform(0, 1, size=count) * (rng.uniform(size=count) < 0.7))
    pixels = torch.lerp(clean, _blurred(clean, float(rng.uniform(0.5, 1.4))), softness)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    blotches = F.interpolate(torch.randn(count, 3, SIZE // 4, SIZE // 4, generator=generator), scale_factor=4)
    grain = torch.randn(pixels.shape, generator=generator)
    pixels = (
        pixels + _per_image(rng.uniform(0, 0.03, count)) * blotches + _per_image(rng.uniform(0, 0.04, count)) * grain
    )
    contrast, light = _per_image(1 + rng.normal(0, 0.07, count)), _per_image(rng.normal(0, 0.03, count))
    pixels = 0.5 + (pixels - 0.5) * contrast + light
    return torch.where(touched > 0, pixels, clean).clamp(0, 1)


def _per_image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()[:, None, None, None]


def _blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Apply a Gaussian to each image's rows and columns, renormalised at the edges."""
    at = torch.arange(SIZE, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    weights[weights < 1e-5] = 0  # denormal numbers are slow
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ pixels @ weights.T
