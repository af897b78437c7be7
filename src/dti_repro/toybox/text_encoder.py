"""Pretraining of the toybox's text encoder: CLIP's architecture and loss, with wrong captions as hard negatives."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from dti_repro.results.files import write_json
from dti_repro.toybox.dataset import RenderedScenes
from dti_repro.toybox.drawing import SIZE
from dti_repro.toybox.language import caption, full_caption, swapped
from dti_repro.toybox.tokenizer import CONTEXT, build_tokenizer, word_ids
from dti_repro.toybox.training import Stage
from dti_repro.toybox.vae import as_pixels


class TextEncoder(Stage):
    """A pre-norm causal transformer with learned positions, trained against an image tower that is thrown away.

    A quarter of the pairs brings one caption that uses the same words in other roles or colours (see
    :func:`dti_repro.toybox.language.swapped`), so that the order of words is worth encoding.
    """

    def __init__(
        self,
        data: RenderedScenes,
        held_out: RenderedScenes,
        *,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        batch: int = 128,
        seed: int = 0,
    ):
        self.data, self.held_out, self.batch, self.seed = data, held_out, batch, seed
        self.tokenizer = build_tokenizer()
        torch.manual_seed(seed)
        text = {
            "vocab_size": len(self.tokenizer), "hidden_size": width, "intermediate_size": 4 * width,
            "num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": CONTEXT,
            "bos_token_id": self.tokenizer.bos_token_id, "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id, "hidden_act": "gelu",
        }  # fmt: skip
        vision = {
            "hidden_size": 160, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": 8, "hidden_act": "gelu",
        }  # fmt: skip
        self.model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
        table = self.model.text_model.embeddings.token_embedding.weight
        known = torch.zeros(len(table), 1)
        known[word_ids(self.tokenizer)] = 1
        with torch.no_grad():
            # Rows of letters are never trained; zero marks them as unknown. The others start at CLIP's own scale.
            table.copy_(known * torch.randn_like(table) * 0.4 / math.sqrt(width))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, step])
        indices = rng.integers(self.data.count, size=self.batch)
        images, captions, wrong = self._batch(self.data, indices, rng)
        image, text = self._encode(images, captions + wrong)
        scale = self.model.logit_scale.exp().clamp(max=100)
        logits = scale * image @ text.T
        target = torch.arange(len(images))
        by_image = F.cross_entropy(logits, target)
        by_text = F.cross_entropy(logits[:, : len(images)].T, target)
        top1 = (logits.argmax(1) == target).float().mean().item()
        return (by_image + by_text) / 2, {"top1": round(top1, 3)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Right caption among 512 full ones, and against its own swapped versions."""
        rng = np.random.default_rng([self.seed, 1])
        scenes = [self.held_out.scene(i) for i in range(512)]
        images = as_pixels(self.held_out.images, np.arange(512))
        image, text = self._encode(images, [full_caption(s, rng) for s in scenes])
        retrieved = ((image @ text.T).argmax(1) == torch.arange(512)).float().mean().item()
        right = total = 0
        for index, scene in enumerate(scenes):
            wrong = swapped(scene, rng)
            if wrong:
                _, candidates = self._encode(images[:1], [full_caption(scene, rng), *wrong])
                right += int((candidates @ image[index]).argmax() == 0)
                total += 1
        return {"retrieval_top1_of_512": retrieved, "right_among_swapped": right / total}

    def save(self, folder: Path) -> None:
        encoder = CLIPTextModel(self.model.config.text_config)
        state = self.model.state_dict()
        wanted = encoder.state_dict().keys()
        tower = {name: state[name] if name in state else state[f"text_model.{name}"] for name in wanted}
        encoder.load_state_dict(tower)
        encoder.to(torch.float16).save_pretrained(folder / "text_encoder")
        # transformers would load float16 as such, diffusers' UNet comes as float32: the pipeline needs one of them.
        config = folder / "text_encoder" / "config.json"
        write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
        self.tokenizer.save_pretrained(folder / "tokenizer")

    def load(self, folder: Path) -> None:
        shipped = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
        own = self.model.state_dict()
        for name, value in shipped.items():
            own[name if name in own else f"text_model.{name}"].copy_(value)

    def _batch(
        self, data: RenderedScenes, indices: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, list[str], list[str]]:
        scenes = [data.scene(int(i)) for i in indices]
        wrong = []
        for scene in scenes[: self.batch // 4]:
            choices = swapped(scene, rng)
            if choices:
                wrong.append(choices[rng.integers(len(choices))])
        describe = [full_caption if rng.uniform() < 0.5 else caption for _ in scenes]
        captions = [write(scene, rng) for write, scene in zip(describe, scenes, strict=True)]
        return as_pixels(data.images, indices), captions, wrong

    def _encode(self, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(captions, padding="longest", return_tensors="pt")
        vision = self.model.vision_model(pixel_values=images).pooler_output
        # The states after the end token are never read under a causal mask, so no padding mask is needed.
        text = self.model.text_model(input_ids=tokens.input_ids).pooler_output
        image = self.model.visual_projection(vision).float()
        return F.normalize(image, dim=-1), F.normalize(self.model.text_projection(text).float(), dim=-1)
