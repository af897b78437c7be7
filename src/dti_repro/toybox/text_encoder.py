"""Pretraining of the toybox's text encoder: CLIP's architecture and loss, with wrong captions as hard negatives."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dti_repro.artifacts.files import write_json
from dti_repro.toybox import language, sampling
from dti_repro.toybox.scene import FACTS, Scene
from dti_repro.toybox.tokenizer import CONTEXT, build_tokenizer, save_tokenizer, word_ids
from dti_repro.toybox.training import Stage

CLIP_ROW_NORM = 0.387  # mean over the vocabulary of CLIP ViT-L


class SceneTower(nn.Module):
    """The other side of the contrast: what is in a scene, who has which colour and where, as one vector.

    It reads the scene itself instead of its pixels: a picture tower good enough to teach binding and relations would
    cost more than everything else in the toybox together.
    """

    def __init__(self, facts: Mapping[str, Sequence[str]], numbers: int, width: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(len(values) + 1, 32) for values in facts.values())
        self.mix = nn.Sequential(nn.Linear(32 * len(facts) + numbers, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU())
        self.out = nn.Linear(512, width)

    def forward(self, facts: Tensor, look: Tensor) -> Tensor:
        """Encode labels ``facts`` (batch, attributes) and numbers ``look`` (batch, numbers) as (batch, width)."""
        parts = [table(column) for table, column in zip(self.tables, facts.T, strict=True)]
        return self.out(self.mix(torch.cat([*parts, look], dim=-1)))


class _Towers(nn.Module):
    def __init__(self, config: CLIPTextConfig, facts: Mapping[str, Sequence[str]], numbers: int):
        super().__init__()
        self.text = CLIPTextModel(config)
        self.text_out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.scene = SceneTower(facts, numbers, config.hidden_size)
        self.facts = nn.ModuleList(nn.Linear(config.hidden_size, len(values) + 1) for values in facts.values())
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.look = nn.Linear(config.hidden_size, numbers)


class TextEncoder(Stage):
    """A pre-norm causal transformer with learned positions, contrasted with the scenes that captions describe.

    Every pair brings wrong captions of the same words (see :func:`dti_repro.toybox.language.swapped`): the inverse
    relation, and one with colours exchanged, so that the order of words is worth encoding. A contrast alone stays at
    chance on relations for very long, as neither side has a reason to encode what the other ignores; so linear heads
    read every fact from the text vector of complete captions as well, with ``fact_weight``, and the numbers of a look
    from captions whose name fixes them, with ``look_weight``.

    ``decay_matrices_only`` leaves embeddings, biases, norms and the scene's side without weight decay: a strong one
    then keeps the layers' updates at CLIP's scale. ``positions`` is the standard deviation of the initial position
    embeddings, ``wrong_share`` the share of scenes that bring their wrong captions.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        activation: str = "gelu",
        positions: float = 0.02,
        decay_matrices_only: bool = False,
        fact_weight: float = 0.2,
        look_weight: float = 0.0,
        wrong_share: float = 1.0,
        batch: int = 128,
        seed: int = 0,
    ):
        self.batch, self.seed, self.fact_weight, self.look_weight = batch, seed, fact_weight, look_weight
        self.wrong_share, self.decay_matrices_only = wrong_share, decay_matrices_only
        self.tokenizer = build_tokenizer(language.WORDS)
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
                hidden_act=activation,
            ),
            FACTS,
            len(sampling.look(sampling.scene_of(0, 0))),
        )
        table = self.model.text.get_input_embeddings().weight
        known = torch.zeros(len(table), 1)
        known[word_ids(self.tokenizer, language.WORDS)] = 1
        with torch.no_grad():
            # Rows of letters are never trained; zero marks them as unknown. The others start at CLIP's own scale.
            table.copy_(known * F.normalize(torch.randn_like(table), dim=-1) * CLIP_ROW_NORM)
            self.model.text.embeddings.position_embedding.weight.normal_(std=positions)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        if not self.decay_matrices_only:
            return super().parameter_groups(weight_decay)
        bound = [m.weight for m in self.model.text.modules() if isinstance(m, nn.Linear)]
        rest = [p for p in self.model.parameters() if all(p is not q for q in bound)]
        return [{"params": bound, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, 10, step])
        scenes = [sampling.scene_of(0, int(i)) for i in rng.integers(10**6, size=self.batch)]
        complete = rng.uniform(size=self.batch) < 0.5
        captions = [
            (language.full_caption if c else language.caption)(scene, rng)
            for scene, c in zip(scenes, complete, strict=True)
        ]
        wrong = []
        for scene in scenes[: round(self.wrong_share * self.batch)]:
            choices = language.swapped(scene, rng)
            if "relation" in choices:
                wrong.append(choices.pop("relation"))
            if choices:
                wrong.append(str(rng.choice(list(choices.values()))))
        pooled = self._pooled(captions + wrong)
        facts, look = self._read(scenes)
        logits = self._logits(facts, look, pooled)
        target = torch.arange(len(scenes), device=self.device)
        by_scene = F.cross_entropy(logits, target)
        by_text = F.cross_entropy(logits[:, : len(scenes)].T, target)
        told = torch.from_numpy(complete).to(self.device)
        pairs = list(zip(self.model.facts, facts[told].T, strict=True))
        read = [head(pooled[: len(scenes)][told]).float() for head, _ in pairs]
        by_fact = sum(F.cross_entropy(guess, true) for guess, (_, true) in zip(read, pairs, strict=True))
        loss = (by_scene + by_text) / 2 + self.fact_weight * by_fact
        figures = {"top1": (logits.argmax(1) == target).float().mean().item()}
        for name, guess, (_, true) in zip(FACTS, read, pairs, strict=True):
            figures[name] = (guess.argmax(1) == true).float().mean().item()
        if self.look_weight:
            fixed = np.stack([language.told(scene, text) for scene, text in zip(scenes, captions, strict=True)])
            weight = torch.from_numpy(fixed).to(self.device)
            error = weight * (self.model.look(pooled[: len(scenes)]).float() - look).square()
            by_look = error.sum() / weight.sum().clamp(min=1)
            loss = loss + self.look_weight * by_look
            figures["look"] = by_look.item()
        return loss, {k: round(v, 3) for k, v in figures.items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return, for held-out scenes, how often the right caption wins: among 512, and against each kind of swap."""
        rng = np.random.default_rng([self.seed, 11])
        scenes = [sampling.scene_of(1, i) for i in range(512)]
        logits = self._logits(
            *self._read(scenes), self._pooled([language.full_caption(scene, rng) for scene in scenes])
        )
        beaten: dict[str, list[bool]] = defaultdict(list)
        for scene in scenes:
            wrong = language.swapped(scene, rng)
            if wrong:
                pooled = self._pooled([language.full_caption(scene, rng), *wrong.values()])
                right, *others = self._logits(*self._read([scene]), pooled)[0]
                for kind, other in zip(wrong, others, strict=True):
                    beaten[f"right_against_{kind}"].append(bool(right > other))
        top1 = (logits.argmax(1) == torch.arange(512, device=self.device)).float().mean().item()
        return {"retrieval_top1_of_512": top1, **{kind: float(np.mean(won)) for kind, won in beaten.items()}}

    def save(self, folder: Path) -> None:
        encoder = CLIPTextModel(self.model.text.config)
        encoder.load_state_dict(self.model.text.state_dict())
        encoder.to(torch.float16).save_pretrained(folder / "text_encoder")
        # transformers would load float16 as such, diffusers' UNet comes as float32: the pipeline needs one of them.
        config = folder / "text_encoder" / "config.json"
        write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
        save_tokenizer(self.tokenizer, folder / "tokenizer")

    def load(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.model.text.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())

    def _read(self, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Return the label of every fact (the last index where a scene has none) and the numbers of the looks."""
        facts = []
        for scene in scenes:
            values = scene.facts()
            items = FACTS.items()
            facts.append([labels.index(values[n]) if n in values else len(labels) for n, labels in items])
        look = torch.from_numpy(np.stack([sampling.look(scene) for scene in scenes]))
        return torch.tensor(facts, device=self.device), look.to(self.device)

    def _pooled(self, captions: list[str]) -> Tensor:
        """Return the states at the end token (captions, width). Captions of like length go together: less padding."""
        order = sorted(range(len(captions)), key=lambda i: len(captions[i].split()))
        third = -(-len(order) // 3)
        pooled = []
        for start in range(0, len(order), third):
            part = [captions[i] for i in order[start : start + third]]
            tokens = self.tokenizer(part, padding="longest", return_tensors="pt")
            # Under a causal mask the states after the end token are never read, so no padding mask is needed.
            pooled.append(self.model.text(tokens.input_ids.to(self.device)).pooler_output)
        return torch.cat(pooled)[np.argsort(order)]

    def _logits(self, facts: Tensor, look: Tensor, pooled: Tensor) -> Tensor:
        """Return scaled cosines (scenes, captions)."""
        text = F.normalize(self.model.text_out(pooled).float(), dim=-1)
        seen = F.normalize(self.model.scene(facts, look).float(), dim=-1)
        return self.model.logit_scale.exp().clamp(max=100) * seen @ text.T
