"""Measure what is missing, draw every figure from its CSV, and write the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_json, write_json, write_text
from dti_repro.experiments.mechanism import (
    attention,
    neighbours,
    norms,
    pictures,
    positions,
    style,
    training_norms,
    updates,
)
from dti_repro.experiments.mechanism.inputs import Inputs, about_encoders
from dti_repro.experiments.mechanism.part import VOCABULARY, Part, published_label

PARTS: dict[str, Part] = {
    module.PART.name: module.PART
    for module in (norms, positions, updates, neighbours, attention, training_norms, pictures)
}
RECORD = "inputs.json"  # part -> digest of what its CSV was made of, and notes
PAGE = "mechanism.md"


def study(inputs: Inputs, command: str) -> Path:
    """Write the CSVs that are missing or made of other inputs, all figures and the page; return the page.

    command: how to make it again, for the page. A part that is stopped leaves nothing; the others are kept.
    """
    cfg = inputs.cfg
    parts = [part for name, part in PARTS.items() if name in cfg.parts or not cfg.parts]
    out = Path(cfg.out)
    record = {}
    if (out / RECORD).is_file():
        record = read_json(out / RECORD, "remove it, and everything is measured again")
    for part in parts:
        known, digest = record.get(part.name), inputs.digest(part)
        path = out / f"{part.name}.csv"
        if not isinstance(known, dict) or known.get("digest") != digest or not path.is_file():
            import torch

            torch.set_num_threads(cfg.threads)
            measured = part.measure(inputs)
            part.write(path, measured.rows)
            record[part.name] = {"digest": digest, "notes": measured.notes}
            write_json(out / RECORD, record)
            print(f"{part.name}: {len(measured.rows)} rows measured")
        table = part.read(path)
        if table.empty:
            style.remove(out / part.name)
        else:
            style.save(part.draw(table), out / part.name)
    notes = {part.name: list(record[part.name].get("notes", [])) for part in parts}
    write_text(out / PAGE, _page(inputs, parts, notes, command, out))
    return out / PAGE


def _page(inputs: Inputs, parts: Sequence[Part], notes: dict[str, list[str]], command: str, out: Path) -> str:
    """Return the page: what was measured on what, then a section for each part."""
    groups = Counter(word.group for word in inputs.learned)
    learned = ", ".join(f"{count} of {group}" for group, count in groups.items())
    facts = [
        *(f"{name}: {_encoder_text(about)}" for name, about in about_encoders(inputs.checkpoint).items()),
        f"words of the {VOCABULARY}: {', '.join(inputs.cfg.words)} (a word that is not one token is left out)",
        f"learned words: {learned or 'none'}",
        "published figures: the outputs stored in the notebooks of the authors' repository, github.com/kunheek/dti",
    ]
    text = f"# Norms and mechanism: {inputs.cfg.backbone.name}\n\n```bash\n{command}\n```\n\n"
    text += "".join(f"- {fact}\n" for fact in facts)
    for part in parts:
        table = part.read(out / f"{part.name}.csv")
        text += f"\n## {part.title}\n"
        text += "".join(f"\n{note}.\n" for note in notes[part.name])
        if not table.empty:
            text += f"\n![{part.title}]({part.name}.png)\n\n{part.section(table)}"
    return text


def _encoder_text(about: dict[str, Any]) -> str:
    text = f"{about['model_type']}, {about['width']} wide, {about['layers']} layers"
    same = about["published"]
    return f"{text}; the size of {published_label(same)}" if same else f"{text}; no published figure is about its size"
