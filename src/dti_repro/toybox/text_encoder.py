"""Pretraining of the toybox's text encoder: CLIP's architecture and loss, with wrong captions as hard negatives."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dti_repro.results.files import write_json
from dti_repro.toybox.dataset import scene_of
from dti_repro.toybox.language import caption, full_caption, swapped
from dti_repro.toybox.scene import ATTRIBUTES, PATTERNS, Scene
from dti_repro.toybox.tokenizer import CONTEXT, build_tokenizer, word_ids
from dti_repro.toybox.training import Stage

_FACTS = {**ATTRIBUTES, "pattern": PATTERNS}


class SceneTower(nn.Module):
    """The other side of the contrast: what is in a scene, who has which colour and where, as one vector.

    It reads the scene itself instead of its pixels: a picture tower good enough to teach binding and relations would
    cost more than everything else in the toybox together.
    """

    def __init__(self, width: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(len(values) + 1, 32) for values in _FACTS.values())
        self.mix = nn.Sequential(nn.Linear(32 * len(_FACTS), 512), nn.GELU(), nn.Linear(512, 512), nn.GELU())
        self.out = nn.Linear(512, width)

    def forward(self, facts: Tensor) -> Tensor:
        """facts (batch, attributes) of label indices -> (batch, width)."""
        parts = [table(column) for table, column in zip(self.tables, facts.T, strict=True)]
        return self.out(self.mix(torch.cat(parts, dim=-1)))


def facts_of(scene: Scene) -> list[int]:
    """Label index of every attribute and of the pattern; the last index where the scene has none."""
    values = {**scene.attributes(), "pattern": scene.subject.pattern}
    return [labels.index(values[name]) if name in values else len(labels) for name, labels in _FACTS.items()]


class _Towers(nn.Module):
    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.text = CLIPTextModel(config)
        self.text_out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.scene = SceneTower(config.hidden_size)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class TextEncoder(Stage):
    """A pre-norm causal transformer with learned positions, contrasted with the scenes that captions describe.

    Half of the pairs bring one caption that uses the same words in other roles or colours (see
    :func:`dti_repro.toybox.language.swapped`), so that the order of words is worth encoding.
    """

    def __init__(self, *, width: int = 256, layers: int = 6, heads: int = 4, batch: int = 128, seed: int = 0):
        self.batch, self.seed = batch, seed
        self.tokenizer = build_tokenizer()
        torch.manual_seed(seed)
        self.model = _Towers(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=CONTEXT,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                hidden_act="gelu",
            )
        )
        table = self.model.text.get_input_embeddings().weight
        known = torch.zeros(len(table), 1)
        known[word_ids(self.tokenizer)] = 1
        with torch.no_grad():
            # Rows of letters are never trained; zero marks them as unknown. The others start at CLIP's own scale.
            table.copy_(known * torch.randn_like(table) * 0.4 / math.sqrt(width))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, 10, step])
        scenes = [scene_of(0, int(i)) for i in rng.integers(10**6, size=self.batch)]
        write = [full_caption if rng.uniform() < 0.5 else caption for _ in scenes]
        captions = [describe(scene, rng) for describe, scene in zip(write, scenes, strict=True)]
        wrong = []
        for scene in scenes[: self.batch // 2]:
            choices = swapped(scene, rng)
            if choices:
                wrong.append(choices[rng.integers(len(choices))])
        logits = self._logits(scenes, captions + wrong)
        target = torch.arange(len(scenes), device=self.device)
        by_scene = F.cross_entropy(logits, target)
        by_text = F.cross_entropy(logits[:, : len(scenes)].T, target)
        top1 = (logits.argmax(1) == target).float().mean().item()
        return (by_scene + by_text) / 2, {"top1": round(top1, 3)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Right caption among 512 full ones, and against its own swapped versions, for held-out scenes."""
        rng = np.random.default_rng([self.seed, 11])
        scenes = [scene_of(1, i) for i in range(512)]
        logits = self._logits(scenes, [full_caption(scene, rng) for scene in scenes])
        right = total = 0
        for scene in scenes:
            wrong = swapped(scene, rng)
            if wrong:
                right += int(self._logits([scene], [full_caption(scene, rng), *wrong]).argmax() == 0)
                total += 1
        top1 = (logits.argmax(1) == torch.arange(512, device=self.device)).float().mean().item()
        return {"retrieval_top1_of_512": top1, "right_among_swapped": right / total}

    def save(self, folder: Path) -> None:
        encoder = CLIPTextModel(self.model.text.config)
        encoder.load_state_dict(self.model.text.state_dict())
        encoder.to(torch.float16).save_pretrained(folder / "text_encoder")
        # transformers would load float16 as such, diffusers' UNet comes as float32: the pipeline needs one of them.
        config = folder / "text_encoder" / "config.json"
        write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
        self.tokenizer.save_pretrained(folder / "tokenizer")

    def load(self, folder: Path) -> None:
        self.model.text.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())

    def _logits(self, scenes: list[Scene], captions: list[str]) -> Tensor:
        """Scaled cosines (scenes, captions)."""
        tokens = self.tokenizer(captions, padding="longest", return_tensors="pt")
        # Under a causal mask the states after the end token are never read, so no padding mask is needed.
        states = self.model.text(tokens.input_ids.to(self.device)).pooler_output
        text = F.normalize(self.model.text_out(states).float(), dim=-1)
        seen = self.model.scene(torch.tensor([facts_of(scene) for scene in scenes], device=self.device))
        return self.model.logit_scale.exp().clamp(max=100) * F.normalize(seen.float(), dim=-1) @ text.T
