"""``python -m dti_repro.toybox.probe``: what the norm of a word's embedding does by itself, before any method is run.

A class word's own embedding is scaled and nothing else is changed. Measured: what the pictures then show, whether the
position can still be read after the first LayerNorm, and how much each layer still changes the token's state.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from dti_repro.artifacts.files import write_file, write_json
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.backbones.text_encoder import TextEncoder
from dti_repro.data.prompts import load_prompts
from dti_repro.experiments.mechanism.pictures import word_scores
from dti_repro.experiments.mechanism.position_probe import PositionProbe
from dti_repro.experiments.mechanism.states import read_word
from dti_repro.launch.command import command
from dti_repro.toybox.scene import CLASSES

ENCODER = "text_encoder"
PROMPT = "a photo of a {} on the beach"


@command("toybox_probe")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    model = StableDiffusion("toybox", cfg.weights, None)
    encoder = model.text_encoders[ENCODER]
    positions = position_accuracy(encoder, cfg.norms, cfg.seed)
    rows = {word: encoder.rows(word) for word in CLASSES}
    class_words = torch.cat(list(rows.values()))
    updates = {float(f): residual_updates(encoder, float(f) * class_words) for f in cfg.factors}
    scores = {float(f): _pictures(model, rows, float(f), cfg) for f in track(cfg.factors, "drawing")}
    norm = float(class_words.norm(dim=-1).mean())
    out = Path(cfg.out)
    write_json(
        out / "probe.json",
        {"class_word_norm": norm, "position_accuracy": positions, "residual_updates": updates, "pictures": scores},
    )
    text = _markdown(norm, positions, updates, scores)
    write_file(out / "probe.md", text)
    print(text)


def position_accuracy(encoder: TextEncoder, norms: list[float], seed: int) -> dict[str, dict[str, float]]:
    """Return the share of positions that the probe reads, by the token's norm: over "all positions", and at "position
    0", the only one that the published probe reads. "vocabulary": held-out words at their own norms."""
    probe = PositionProbe(encoder, seed)
    scaled = {f"{norm:g}": F.normalize(probe.held_out, dim=-1) * norm for norm in norms}
    result: dict[str, dict[str, float]] = {"all positions": {}, "position 0": {}}
    for name, tokens in {"vocabulary": probe.held_out, **scaled}.items():
        shares = probe.accuracy(tokens)
        result["all positions"][name] = round(float(shares.mean()), 4)
        result["position 0"][name] = round(float(shares[0]), 4)
    return result


def residual_updates(encoder: TextEncoder, words: Tensor) -> list[float]:
    """Return how much each layer changes a word's state, relative to it, mean over words (words, dim)."""
    updates = read_word(encoder, PROMPT, words).relative_updates()
    return [round(float(value), 4) for value in updates.mean(dim=0)]


def _pictures(model: StableDiffusion, rows: dict[str, Tensor], factor: float, cfg: DictConfig) -> dict[str, float]:
    """Mean scores of the pictures drawn with the scaled words, for the validation prompts."""
    prompts, seeds = load_prompts(cfg.prompts), cfg.image_seeds
    settings = {"seeds": seeds, "steps": cfg.steps, "guidance": cfg.guidance, "metrics": cfg.metrics}
    settings["batch"] = len(prompts.prompts) * len(seeds)
    found = [word_scores(model, word, {ENCODER: factor * row}, prompts, settings) for word, row in rows.items()]
    return {name: round(float(torch.cat([f[name] for f in found]).nanmean()), 4) for name in cfg.metrics}


def _markdown(norm: float, positions: dict, updates: dict, scores: dict) -> str:
    names = list(next(iter(scores.values())))
    lines = [
        f"| class word x | norm | {' | '.join(names)} | relative update of the token, layer by layer |",
        f"|{'---|' * (len(names) + 3)}",
    ]
    for factor, values in scores.items():
        path = " ".join(f"{value:.2f}" for value in updates[factor])
        lines.append(f"| {factor:g} | {factor * norm:.2f} | {' | '.join(f'{values[n]:.3f}' for n in names)} | {path} |")
    norms = list(positions["all positions"])
    lines += ["", f"| norm | {' | '.join(norms)} |", f"|{'---|' * (len(norms) + 1)}"]
    for where, shares in positions.items():
        lines.append(f"| position read, {where} | {' | '.join(f'{share:.3f}' for share in shares.values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
