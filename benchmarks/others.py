"""How others train, draw and score, written again in our words, to be timed beside this project.

`published` is the code of the paper (github.com/kunheek/dti at 96a77a3: scripts/train_sdxl.py, scripts/evaluate.py and
src/dti/metrics), `diffusers` is diffusers' examples/textual_inversion/textual_inversion_sdxl.py. What they compute in a
step, for an image and for a score is kept. Left out is what only watches: checkpoints, validation pictures, trackers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import AutoTokenizer, BitImageProcessor, Dinov2Model, SiglipImageProcessor, SiglipModel

from dti_repro.data.concept import Concept

TEMPLATES = ("a photo of a {}", "a picture of a {}", "there is a {}", "the {}")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
RATE, DECAY = 0.02, 0.01
Example = dict[str, Any]


class Photos(Dataset[Example]):
    """A photo is read, made smaller and cropped each time that it is shown, and its prompt is tokenized."""

    def __init__(self, concept: Concept, tokenizers: Sequence[Any], size: int) -> None:
        self.concept = concept
        self.tokenizers = tokenizers
        self.size = size
        self.resize = transforms.Resize(size, transforms.InterpolationMode.BICUBIC)
        self.crop = transforms.CenterCrop(size)

    def __len__(self) -> int:
        return 100 * len(self.concept.images)

    def __getitem__(self, index: int) -> Example:
        photo = Image.open(self.concept.images[index % len(self.concept.images)]).convert("RGB")
        pixels = np.array(self.crop(self.resize(photo)), dtype=np.uint8)
        text = random.choice(TEMPLATES).format(self.concept.placeholder)
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = [tokenizer(text, **options).input_ids[0] for tokenizer in self.tokenizers]
        sizes = torch.tensor([photo.height, photo.width, 0, 0, self.size, self.size])
        return {
            "pixels": torch.from_numpy((pixels / 127.5 - 1).astype(np.float32)).permute(2, 0, 1),
            "ids": ids,
            "sizes": sizes,
        }


class TableWithWord(nn.Module):
    """A frozen table of embeddings with one more row, which is learned: the published code's."""

    def __init__(self, table: nn.Embedding, row: Tensor) -> None:
        super().__init__()
        self.table = table
        self.word = nn.Parameter(row.clone())

    def forward(self, ids: Tensor) -> Tensor:
        known = self.table.num_embeddings
        rows = self.table(ids.clamp(max=known - 1))
        return torch.where((ids == known)[..., None], self.word.to(rows.dtype), rows)


@dataclass
class Training:
    """Textual Inversion on SDXL in float32 or bfloat16. whole_table: all rows of the embeddings are trained and all but
    one are put back after each step, as in diffusers' script."""

    checkpoint: Path
    concept: Concept
    size: int
    batch: int
    whole_table: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        self.models = models = StableDiffusionXLPipeline.from_pretrained(self.checkpoint)
        self.scheduler = DDPMScheduler.from_config(models.scheduler.config)
        self.tokenizers = [models.tokenizer, models.tokenizer_2]
        self.encoders = [models.text_encoder, models.text_encoder_2]
        for module in (models.vae, models.unet, *self.encoders):
            module.requires_grad_(False)
        self.words = [self._add_word(*both) for both in zip(self.tokenizers, self.encoders, strict=True)]
        for module in (models.vae, models.unet, models.text_encoder_2):  # the first encoder stays in float32
            module.to(dtype)
        self.optimizer = torch.optim.AdamW(self.words, lr=RATE, weight_decay=DECAY)
        self.losses: list[float] = []

    def _add_word(self, tokenizer: Any, encoder: Any) -> nn.Parameter:
        """Add the placeholder to the vocabulary, and return what is trained."""
        initial = tokenizer(self.concept.initializer, add_special_tokens=False).input_ids[0]
        tokenizer.add_tokens(self.concept.placeholder)
        table = encoder.get_input_embeddings()
        row = table.weight.data[initial]
        if self.whole_table:
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            weight = encoder.get_input_embeddings().weight
            weight.data[-1] = row
            return weight.requires_grad_()
        replaced = TableWithWord(table, row)
        encoder.set_input_embeddings(replaced)
        return replaced.word

    def steps(self) -> Iterator[None]:
        """Take a step for each item that is asked for."""
        photos = Photos(self.concept, self.tokenizers, self.size)
        before = [word.detach().clone() for word in self.words] if self.whole_table else []
        for encoder in self.encoders:
            encoder.train()
        for _ in count():
            for examples in DataLoader(photos, batch_size=self.batch, shuffle=True):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    loss = self._loss(examples)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.losses.append(loss.item())
                for word, old in zip(self.words, before, strict=False):
                    word.data[:-1] = old[:-1]
                yield

    def _loss(self, examples: Example) -> Tensor:
        vae, unet = self.models.vae, self.models.unet
        latents = vae.encode(examples["pixels"].to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),))
        noisy = self.scheduler.add_noise(latents, noise, t)
        outputs = [
            encoder(ids, output_hidden_states=True) for encoder, ids in zip(self.encoders, examples["ids"], strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2].to(unet.dtype) for output in outputs], dim=-1)
        more = {"text_embeds": outputs[1][0], "time_ids": examples["sizes"]}
        predicted = unet(noisy, t, hidden, added_cond_kwargs=more).sample
        return functional.mse_loss(predicted.float(), noise.float())

    def save(self, file: Path) -> None:
        """Write the learned row of each encoder."""
        rows = [word.detach()[-1:] if self.whole_table else word.detach()[None] for word in self.words]
        save_file(dict(zip(("clip_l", "clip_g"), (row.contiguous() for row in rows), strict=True)), file)


class Drawing:
    """The pipeline with learned words, which are added one after the other."""

    def __init__(self, checkpoint: Path, bf16: bool = False) -> None:
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(checkpoint, torch_dtype=dtype)
        self.pipeline.set_progress_bar_config(disable=True)

    def add(self, file: Path, token: str) -> None:
        rows = load_file(file)
        for key, more in (("clip_l", ""), ("clip_g", "_2")):
            parts = {name: getattr(self.pipeline, f"{name}{more}") for name in ("tokenizer", "text_encoder")}
            self.pipeline.load_textual_inversion(rows[key], token=token, **parts)

    def draw(
        self, token: str, prompts: Sequence[str], seeds: Sequence[int], folder: Path, steps: int, size: int, batch: int
    ) -> None:
        """Write an image of each prompt and seed into `folder/<seed>/<prompt>.png`."""
        pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
        for begin in range(0, len(pairs), batch):
            part = pairs[begin : begin + batch]
            images = self.pipeline(
                prompt=[prompt.format(token) for prompt, _ in part],
                generator=[torch.Generator().manual_seed(seed) for _, seed in part],
                num_inference_steps=steps,
                height=size,
                width=size,
            ).images
            for image, (prompt, seed) in zip(images, part, strict=True):
                file = folder / str(seed) / f"{prompt.replace(' ', '_')}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)


class Scoring:
    """DINOv2's image score and SigLIP's text score, in batches of 8 pictures: the references are encoded again with
    each batch."""

    BATCH = 8

    def __init__(self, dinov2: Path, siglip: Path) -> None:
        self.image_network = Dinov2Model.from_pretrained(dinov2).eval()
        crop = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
        self.image_input = BitImageProcessor(**crop, **IMAGENET)
        self.text_network = SiglipModel.from_pretrained(siglip).eval()
        side = self.text_network.config.vision_config.image_size
        self.text_input = SiglipImageProcessor(size={"height": side, "width": side})
        self.tokenizer = AutoTokenizer.from_pretrained(siglip)

    @torch.no_grad()
    def score(self, files: Sequence[Path], prompts: Sequence[str], references: Sequence[Path]) -> tuple[float, float]:
        """Return the image score and the text score. prompts: of the files, with the class word."""
        photos = [Image.open(path).convert("RGB") for path in references]
        image_scores, text_scores = [], []
        for begin in range(0, len(files), self.BATCH):
            images = [Image.open(path).convert("RGB") for path in files[begin : begin + self.BATCH]]
            similarities = self._features(images) @ self._features(photos).T
            image_scores.append(similarities.mean().item())
            texts = [f"{prompt}." for prompt in prompts[begin : begin + self.BATCH]]
            ids = self.tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
            pixels = self.text_input(images, return_tensors="pt").pixel_values
            logits = self.text_network(input_ids=ids.input_ids, pixel_values=pixels).logits_per_image
            text_scores += torch.sigmoid(logits).diagonal().tolist()
        return fmean(image_scores), fmean(text_scores)

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = self.image_input(list(images), return_tensors="pt")
        return functional.normalize(self.image_network(**inputs).last_hidden_state[:, 0], dim=-1)
