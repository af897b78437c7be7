"""The CLIP scorer, in open_clip's own architectures and format."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dti_repro.artifacts.files import write_json
from dti_repro.toybox.evaluators.data import (
    MEAN,
    STD,
    WIDTHS,
    EvaluatorScenes,
    attribute_losses,
    augment,
    normalise,
    save_halves,
    soften,
    to_pixels,
)
from dti_repro.toybox.language import WORDS, caption, full_caption, swapped
from dti_repro.toybox.tokenizer import CONTEXT, build_tokenizer, save_tokenizer
from dti_repro.toybox.training import Stage


class Towers(nn.Module):
    """The shipped CLIP and what only training needs: one linear reader of attributes for both towers' embeddings."""

    def __init__(self, clip: CLIP, embed_dim: int, labels: int):
        super().__init__()
        self.clip = clip
        self.attributes = nn.Linear(embed_dim, labels)


class Scorer(Stage):
    """CLIP's loss, each complete caption beside one of the same words in other roles or colours (a hard negative).

    So small a model learns what words mean faster if the two embeddings are also read for the scene's attributes; that
    reader is shared by the towers and thrown away.
    """

    def __init__(
        self,
        data: EvaluatorScenes,
        held_out: EvaluatorScenes,
        *,
        embed_dim: int,
        vision: dict[str, Any],
        text: dict[str, Any],
        batch: int = 128,
        attribute_weight: float = 0.2,
        seed: int = 0,
    ):
        """``vision`` and ``text`` are open_clip's vision_cfg and text_cfg, vocabulary and context left to us."""
        self.data, self.held_out, self.batch, self.seed = data, held_out, batch, seed
        self.attribute_weight = attribute_weight
        self.tokenizer = build_tokenizer(WORDS)
        self.size = vision["image_size"]
        named = {"context_length": CONTEXT, "vocab_size": len(self.tokenizer), "hf_tokenizer_name": "."}
        self.config = {"embed_dim": embed_dim, "vision_cfg": dict(vision), "text_cfg": {**text, **named}}
        torch.manual_seed(seed)
        self.model = Towers(CLIP(**copy.deepcopy(self.config)), embed_dim, sum(WIDTHS))
        self.model.clip.visual.to(memory_format=torch.channels_last)
        self._labels = data.labels()

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        indices = self.data.batch(self.batch, step, self.seed)
        rng = np.random.default_rng([self.seed, 1, step])
        captions, wrong, complete = [], [], []
        for index in indices:
            scene = self.data.scene(int(index))
            complete.append(bool(rng.uniform() < 0.6))
            captions.append((full_caption if complete[-1] else caption)(scene, rng))
            choices = list(swapped(scene, rng).values()) if complete[-1] else []
            if choices:
                wrong.append(choices[rng.integers(len(choices))])
        image = self._images(augment(self.data.images[indices], rng))
        text = self._texts(captions + wrong)
        labels = self._labels[torch.from_numpy(indices)].to(image.device)
        with torch.autocast(image.device.type, enabled=False):
            logits = self.model.clip.logit_scale.exp().clamp(max=100) * image @ text.T
            target = torch.arange(len(image), device=image.device)
            contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(image)].T, target)) / 2
            told = text[: len(image)][torch.tensor(complete, device=image.device)]
            told_labels = labels[torch.tensor(complete, device=image.device)]
            attributes = self._attribute_loss(image, labels) + self._attribute_loss(told, told_labels)
        top1 = (logits.argmax(1) == target).float().mean().item()
        figures = {
            "contrast": round(contrast.item(), 3),
            "attributes": round(attributes.item(), 3),
            "top1": round(top1, 3),
        }
        return contrast + self.attribute_weight * attributes, figures

    def _attribute_loss(self, embedding: Tensor, labels: Tensor) -> Tensor:
        # Unit vectors are too short for a linear reader to be sure of anything; CLIP's own usual scale serves.
        return attribute_losses(self.model.attributes(16 * embedding), labels).sum()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return how often the right complete caption wins: among 512, and against its swapped versions."""
        self.model.eval()
        count = 512
        rng = np.random.default_rng([self.seed, 2])
        scenes = [self.held_out.scene(i * self.held_out.views) for i in range(count)]
        captions = [full_caption(scene, rng) for scene in scenes]
        text = self._texts(captions)
        wrong = [list(swapped(scene, rng).values()) for scene in scenes]
        swaps = self._texts([w for group in wrong for w in group]).split([len(group) for group in wrong])
        clean = to_pixels(self.held_out.images[:: self.held_out.views][:count])
        figures: dict[str, float] = {}
        for suffix, pixels in (("", clean), ("_softened", soften(clean))):
            image = torch.cat([self._images(part) for part in pixels.split(128)])
            similar = image @ text.T
            retrieved = similar.argmax(1) == torch.arange(count, device=similar.device)
            figures[f"retrieval_top1_of_{count}{suffix}"] = round(retrieved.float().mean().item(), 4)
            own = similar.diagonal()
            right = [(own[i] > (group @ image[i]).max()).item() for i, group in enumerate(swaps) if len(group)]
            figures[f"right_among_swapped{suffix}"] = round(float(np.mean(right)), 4)
            if not suffix:
                figures["cosine_right_caption"] = round(own.mean().item(), 4)
                figures["cosine_other_caption"] = round(((similar.sum() - own.sum()) / (count * (count - 1))).item(), 4)
        return figures

    def save(self, folder: Path) -> None:
        folder = folder / "scorer"
        save_tokenizer(self.tokenizer, folder)
        save_halves(self.model.clip, folder / "open_clip_model.safetensors")
        preprocessing = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
        write_json(folder / "open_clip_config.json", {"model_cfg": self.config, "preprocess_cfg": preprocessing})

    def load(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "scorer")
        self.model.clip.load_state_dict(load_file(folder / "scorer" / "open_clip_model.safetensors"))

    def _images(self, pixels: Tensor) -> Tensor:
        """Return unit embeddings; pixels are resized as open_clip's preprocessing does."""
        with torch.autocast("cpu", enabled=False):
            if self.size != pixels.shape[-1]:
                pixels = F.interpolate(pixels, size=self.size, mode="bicubic", antialias=True).clamp(0, 1)
        device = self.model.attributes.weight.device
        pixels = normalise(pixels).to(device, memory_format=torch.channels_last)
        return F.normalize(self.model.clip.encode_image(pixels).float(), dim=-1)

    def _texts(self, captions: list[str]) -> Tensor:
        """Return unit embeddings. What follows the end token is invisible under the causal mask: it is left out."""
        clip = self.model.clip
        tokens = self.tokenizer(captions, padding="longest", return_tensors="pt").input_ids
        tokens = tokens.to(self.model.attributes.weight.device)
        length = tokens.shape[1]
        states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        states = clip.ln_final(clip.transformer(states, attn_mask=clip.attn_mask[:length, :length]))
        pooled = states[torch.arange(len(tokens)), tokens.argmax(-1)]
        return F.normalize((pooled @ clip.text_projection).float(), dim=-1)
