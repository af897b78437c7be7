"""``python -m dti_repro.toybox.gates``: what the toybox must show before a method is run.

Gate 1, the word space: whether a breed's nearest rows are of its class or look, and whether the sum of a class word's
and a look word's row draws that class with that look. Gate 2: whether naming a look lowers the denoising loss on that
look's photos. Besides, the figures by which the text encoder is compared with CLIP ViT-L's. Gate 3, how far a word can
be learned, is ``experiment=capacity``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.files import atomic_write, write_json
from dti_repro.backbones.base import row_norms
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.data.concept import Toybox
from dti_repro.errors import InputError
from dti_repro.experiments.mechanism.part import WORD
from dti_repro.experiments.mechanism.states import read_word
from dti_repro.launch.command import command
from dti_repro.metrics.attributes import AttributeReader
from dti_repro.toybox.language import WORDS, describe
from dti_repro.toybox.looks import NAMED
from dti_repro.toybox.probe import ENCODER, PROMPT, position_accuracy, residual_updates
from dti_repro.toybox.scene import CLASSES
from dti_repro.toybox.vae import as_pixels


@command("toybox_gates")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    model = StableDiffusion("toybox", cfg.weights, None)
    measured = {
        "scale": lambda: scale(model, cfg.norms, cfg.seed),
        "words": lambda: word_space(model),
        "sums": lambda: sums(model, cfg),
        "loss": lambda: naming_lowers_the_loss(model, cfg),
    }
    if unknown := [part for part in cfg.parts if part not in measured]:
        raise InputError(f"parts: {unknown[0]} is none of {', '.join(measured)}")
    figures = {part: measured[part]() for part in cfg.parts}
    write_json(Path(cfg.out) / "gates.json", figures)
    for part, values in figures.items():
        print(part, values)


def scale(model: StableDiffusion, norms: list[float], seed: int) -> dict[str, Any]:
    """Return the norms of the rows, what each layer adds to a token's state, and where its position can be read."""
    encoder = model.text_encoders[ENCODER]
    norms_of_rows = row_norms(encoder.table)
    norms_of_rows = norms_of_rows[norms_of_rows > 0]
    rows = torch.cat([encoder.rows(word) for word in CLASSES])
    path = read_word(encoder, PROMPT, rows).states
    return {
        "rows": len(norms_of_rows),
        "row_norm_mean": round(float(norms_of_rows.mean()), 4),
        "row_norm_spread": round(float(norms_of_rows.std() / norms_of_rows.mean()), 4),
        "state_norms": [round(float(v), 3) for v in path.norm(dim=-1).mean(0)],
        "update_norms": [round(float(v), 3) for v in path.diff(dim=1).norm(dim=-1).mean(0)],
        "relative_updates": {f"x{factor}": residual_updates(encoder, factor * rows) for factor in (1, 10, 20, 50)},
        "position_read": position_accuracy(encoder, norms, seed),
    }


def word_space(model: StableDiffusion) -> dict[str, Any]:
    """Return how many of a breed's three nearest rows are of its class or its look, and how many random rows are.

    A word is of the look if its own look has the same main colour and pattern, or if it is the plain word for one of
    the colours or for the pattern.
    """
    encoder = model.text_encoders["text_encoder"]
    vocabulary = encoder.tokenizer.tokenizer.get_vocab()
    rows = F.normalize(encoder.table[[vocabulary[f"{word}</w>"] for word in WORDS]].float(), dim=-1)
    breeds = [breed for group in NAMED.breeds.values() for breed in group]
    similar = rows @ rows.T - 2 * torch.eye(len(rows))
    alike: dict[str, list[bool]] = {"class": [], "look": [], "either": [], "either_at_random": []}
    examples = {}
    for breed in breeds:
        of_class = {breed.centre.cls, *(b.name for b in NAMED.breeds[breed.centre.cls])}
        of_look = {breed.centre.color, breed.centre.second, breed.centre.pattern} | {
            n.name
            for n in NAMED.by_name.values()
            if (n.centre.color, n.centre.pattern) == (breed.centre.color, breed.centre.pattern)
        }
        row = similar[WORDS.index(breed.name)]
        nearest = [WORDS[i] for i in row.topk(3).indices]
        alike["class"] += [word in of_class for word in nearest]
        alike["look"] += [word in of_look for word in nearest]
        alike["either"] += [word in of_class | of_look for word in nearest]
        alike["either_at_random"] += [word in of_class | of_look for word in WORDS if word != breed.name]
        if len(examples) < 12 and breed is NAMED.breeds[breed.centre.cls][0]:
            named = [f"{_meaning(word)} {float(row[WORDS.index(word)]):.2f}" for word in nearest]
            examples[_meaning(breed.name)] = named
    return {**{k: round(sum(v) / len(v), 4) for k, v in alike.items()}, "examples": examples}


def _meaning(word: str) -> str:
    named = NAMED.by_name.get(word)
    if named is None:
        return word
    return describe(named.centre) if named.kind == "breed" else describe(named.centre).rsplit(" ", 1)[0]


def sums(model: StableDiffusion, cfg: DictConfig) -> dict[str, Any]:
    """Return how often the sum of a class word's and a look word's row draws both, as the reader reads it.

    A pair counts for the colour and the pattern only where the reader knows them. "look_word" is the same for the two
    words written one after the other.
    """
    rng = np.random.default_rng([cfg.seed, 20])
    reader = AttributeReader(cfg.reader)
    heads = reader.heads
    looks = [named for named in NAMED.looks if named.centre.color in heads["color"]]
    pairs = [(str(rng.choice(CLASSES)), looks[rng.integers(len(looks))]) for _ in range(cfg.pairs)]

    def row(word: str):
        return F.normalize(model.embed_initializer(word, word, 0).rows["text_encoder"], dim=-1)

    drawn: dict[str, list[Image.Image]] = {"sum": [], "look_word": []}
    norm = float(model.embed_initializer("dog", "dog", 0).rows["text_encoder"].norm())
    for k, (cls, look) in enumerate(pairs):
        learned = {WORD: {"text_encoder": norm * F.normalize(row(cls) + row(look.name), dim=-1)}}
        options = {"steps": cfg.steps, "guidance": cfg.guidance}
        drawn["sum"] += model.generate([f"a photo of a {WORD}"], learned, [k], **options)
        drawn["look_word"] += model.generate([f"a photo of a {look.name} {cls}"], {}, [k], **options)
    figures: dict[str, Any] = {"pairs": len(pairs)}
    for kind, images in drawn.items():
        read = reader.read(images)
        right = []
        for (cls, look), seen in zip(pairs, read, strict=True):
            wanted = {"class": cls, "color": look.centre.color, "pattern": look.centre.pattern}
            right.append({name: seen[name] == value for name, value in wanted.items() if name in heads})
        shares = {name: round(float(np.mean([r[name] for r in right])), 4) for name in right[0]}
        both = [r.get("class", True) and r.get("color", True) for r in right]
        together = {"class and color": both, "all": [all(r.values()) for r in right]}
        figures[kind] = shares | {name: round(float(np.mean(found)), 4) for name, found in together.items()}
    sheet = [
        np.concatenate([np.asarray(image) for image in images[k : k + 20]], 1)
        for k in range(0, len(pairs) - 19, 20)
        for images in drawn.values()
    ]
    if sheet:
        with atomic_write(Path(cfg.out) / "sums.png") as temporary:
            Image.fromarray(np.concatenate(sheet, 0)).save(temporary)
    return figures


def naming_lowers_the_loss(model: StableDiffusion, cfg: DictConfig) -> dict[str, Any]:
    """Return, for each validation subject, by how much its description lowers the loss of the class word.

    Pairs share photo, time and noise. A subject's t is the mean difference in units of its standard error.
    """
    figures: dict[str, Any] = {}
    concepts = Toybox(names="all", split="validation", root=cfg.subjects).load()
    for concept in concepts:
        photos = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in concept.images])
        latents = model.encode_images(as_pixels(photos)).mean
        generator = torch.Generator().manual_seed(cfg.seed)
        t = ((torch.arange(cfg.noise) + 0.5) / cfg.noise * model.spec.timesteps).long()
        chosen = latents[torch.arange(cfg.noise) % len(latents)]
        noise = torch.randn(chosen.shape, generator=generator)
        losses = {}
        for words in (concept.initializer, concept.description):
            with torch.no_grad():
                condition = model.encode_text(model.tokenize([f"a photo of a {words}"], {}))
                parts = zip(chosen.split(50), noise.split(50), t.split(50), strict=True)
                found = [model.loss(latent, n, time, condition[[0] * len(n)]) for latent, n, time in parts]
            losses[words] = torch.cat(found)
        lowered = losses[concept.initializer] - losses[concept.description]
        figures[concept.name] = {
            "description": concept.description,
            "lowered": round(float(lowered.mean()), 5),
            "t": round(float(lowered.mean() / (lowered.std() / len(lowered) ** 0.5)), 2),
        }
    ts = [figure["t"] for figure in figures.values()]
    return {**figures, "mean_t": round(float(np.mean(ts)), 2), "share_lowered": float(np.mean([t > 0 for t in ts]))}


if __name__ == "__main__":
    main()
