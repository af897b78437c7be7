"""``python -m dti_repro.toybox.probe``: what the norm of a word's embedding does by itself, before any method is run.

A class word's own embedding is scaled and nothing else is changed. Measured: what the pictures then show, whether the
position can still be read after the first LayerNorm, and how much each layer still changes the token's state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dti_repro.launch.command import command

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dti_repro.backbones.stable_diffusion import StableDiffusion

WORD = "<word>"


@command("toybox_probe")
def main(cfg: DictConfig) -> None:
    import torch
    from rich.progress import track

    from dti_repro.artifacts.files import atomic_write, write_json
    from dti_repro.backbones.stable_diffusion import StableDiffusion
    from dti_repro.toybox.scene import CLASSES

    torch.set_num_threads(cfg.threads)
    model = StableDiffusion("toybox", cfg.weights, None)
    positions = position_accuracy(model, cfg.norms, cfg.seed)
    rows = {word: model.embed_initializer(word, word, 0).rows["text_encoder"] for word in CLASSES}
    updates = {float(f): residual_updates(model, rows, float(f)) for f in cfg.factors}
    scores = {float(f): _pictures(model, rows, float(f), cfg) for f in track(cfg.factors, "drawing")}
    norm = float(torch.cat(list(rows.values())).norm(dim=-1).mean())
    out = Path(cfg.out)
    write_json(
        out / "probe.json",
        {"class_word_norm": norm, "position_accuracy": positions, "residual_updates": updates, "pictures": scores},
    )
    with atomic_write(out / "probe.md") as temporary:
        temporary.write_text(_markdown(norm, positions, updates, scores), encoding="utf-8")
    print((out / "probe.md").read_text(encoding="utf-8"))


def position_accuracy(model: StableDiffusion, norms: list[float], seed: int) -> dict[str, dict[str, float]]:
    """Return the share of positions that a two-layer perceptron reads from LayerNorm1(token + position), by the token's
    norm: over "all positions", and at "position 0", the only one that the published probe reads.

    ``place``: tested at this position alone, as the published figures are at 0; None: at all.

    As in the paper's positional analysis (dim-dim-positions, ReLU): it is trained on four fifths of the vocabulary at
    its own norms, at all positions, and tested on the others, rescaled. "vocabulary": at their own norms.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    table = model.embedding.table.weight
    table = table[table.any(dim=-1)]
    places = _text_model(model).embeddings.position_embedding.weight
    normalise = _text_model(model).encoder.layers[0].layer_norm1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(table), generator=generator)
    held_out, seen = table[order[: len(table) // 5]], table[order[len(table) // 5 :]]
    target = torch.arange(len(places))

    def states(tokens: Tensor) -> tuple[Tensor, Tensor]:
        summed = tokens[:, None] + places[None]
        return normalise(summed).flatten(0, 1).detach(), target.repeat(len(tokens))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = table.shape[1]
        network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(places)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs, labels = states(seen)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()
        optimizer.step()

    result: dict[str, dict[str, float]] = {"all positions": {}, "position 0": {}}
    scaled = {f"{norm:g}": F.normalize(held_out, dim=-1) * norm for norm in norms}
    for name, tokens in {"vocabulary": held_out, **scaled}.items():
        inputs, labels = states(tokens)
        right = (network(inputs).argmax(1) == labels).float()
        result["all positions"][name] = round(float(right.mean()), 4)
        result["position 0"][name] = round(float(right[labels == 0].mean()), 4)
    return result


def residual_updates(model: StableDiffusion, rows: dict[str, Tensor], factor: float) -> list[float]:
    """How much each layer changes the scaled word's state, relative to it: one ratio a layer, mean over words."""
    import torch

    ratios = []
    for row in rows.values():
        tokens = model.tokenize([f"a photo of a {WORD} on the beach"], {WORD: 1})
        slots = tokens.slots["text_encoder"]
        place = int((slots[0] >= 0).nonzero()[0])
        with torch.no_grad(), model.embedding.reading(slots, factor * row[None]):
            states = model.text_encoder(tokens.ids["text_encoder"], output_hidden_states=True).hidden_states
        path = torch.stack([state[0, place] for state in states])
        ratios.append(path.diff(dim=0).norm(dim=-1) / path[:-1].norm(dim=-1))
    return [round(float(value), 4) for value in torch.stack(ratios).mean(dim=0)]


def _text_model(model: StableDiffusion) -> nn.Module:
    return getattr(model.text_encoder, "text_model", model.text_encoder)


def _pictures(model: StableDiffusion, rows: dict[str, Tensor], factor: float, cfg: DictConfig) -> dict[str, float]:
    """Mean scores of the pictures drawn with the scaled words, for the validation prompts."""
    from dti_repro.config import build
    from dti_repro.data.prompts import load_prompts
    from dti_repro.metrics.base import ImageMetric, Sample
    from dti_repro.metrics.catalogue import metric_config

    wanted = [(prompt, seed) for prompt in load_prompts(cfg.prompts).prompts for seed in cfg.image_seeds]
    images, samples = [], []
    for word, row in rows.items():
        texts, seeds = [prompt.fill({"": WORD}) for prompt, _ in wanted], [seed for _, seed in wanted]
        vectors = {WORD: {"text_encoder": factor * row}}
        images += model.generate(texts, vectors, seeds, steps=cfg.steps, guidance=cfg.guidance)
        for prompt, _ in wanted:
            expect = {**(prompt.expect or {}), "class": word}
            samples.append(Sample(concept=word, text=prompt.fill({"": word}), expect=expect))
    scores = {}
    for name in cfg.metrics:
        values = build(metric_config(name), ImageMetric).score(images, samples)
        scores[name] = round(float(values.nanmean()), 4)
    return scores


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
