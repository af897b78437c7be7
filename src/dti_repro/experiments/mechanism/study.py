"""Measure what is missing, draw every figure from its CSV, and write the page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pandas import DataFrame

from dti_repro.artifacts.files import read_json, write_file, write_json
from dti_repro.experiments import style
from dti_repro.experiments.mechanism import (
    attention,
    neighbours,
    norms,
    pictures,
    positions,
    training_norms,
    updates,
)
from dti_repro.experiments.mechanism.inputs import Inputs, encoder_facts
from dti_repro.experiments.mechanism.part import VOCABULARY, Part, read_part
from dti_repro.experiments.tables import write_csv

PARTS: dict[str, Part] = {
    part.NAME: part for part in (norms, positions, updates, neighbours, attention, training_norms, pictures)
}
RECORD = "inputs.json"  # part -> digest of what its CSV was made of, and notes
PAGE = "mechanism.md"


def study(inputs: Inputs, command: str) -> Path:
    """Write the CSVs that are missing or made of other inputs, all figures and the page; return the page.

    command: how to make it again, for the page. A part that is stopped leaves nothing; the others are kept.
    """
    cfg = inputs.cfg
    out = Path(cfg.out)
    record = {}
    if (out / RECORD).is_file():
        record = read_json(out / RECORD, "remove it, and everything is measured again")
    sections = []
    for name, part in PARTS.items():
        known, digest = record.get(name), inputs.digest(part)
        path = out / f"{name}.csv"
        if not isinstance(known, dict) or known.get("digest") != digest or not path.is_file():
            if cfg.parts and name not in cfg.parts:
                continue
            import torch

            torch.set_num_threads(cfg.threads)
            rows, notes = part.measure(inputs)
            write_csv(path, DataFrame(rows, columns=list(part.COLUMNS)), float_format="%.6g")
            record[name] = {"digest": digest, "notes": notes}
            write_json(out / RECORD, record)
            print(f"{name}: {len(rows)} rows measured")
        table = read_part(part, path)
        sections += [f"## {part.TITLE}\n", *(f"{note}.\n" for note in record[name].get("notes", []))]
        if table.empty:
            style.remove(out / name)
        else:
            style.save(part.draw(table), out / name)
            sections += [f"![{part.TITLE}]({name}.png)\n", part.section(table)]
    write_file(out / PAGE, "\n".join([_head(inputs, command), *sections]))
    return out / PAGE


def _head(inputs: Inputs, command: str) -> str:
    """Return the top of the page: what was measured on what."""
    groups = Counter(word.group for word in inputs.learned)
    learned = ", ".join(f"{count} of {group}" for group, count in groups.items())
    facts = [
        *encoder_facts(inputs.checkpoint),
        f"words of the {VOCABULARY}: {', '.join(inputs.cfg.words)} (a word that is not one token is left out)",
        f"learned words: {learned or 'none'}",
        "published figures: the outputs stored in the notebooks of the authors' repository, github.com/kunheek/dti",
    ]
    listed = "".join(f"- {fact}\n" for fact in facts)
    return f"# Norms and mechanism: {inputs.cfg.backbone.name}\n\n```bash\n{command}\n```\n\n{listed}"
