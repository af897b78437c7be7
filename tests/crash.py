"""A training that dies, and what it must have left behind."""

from __future__ import annotations

import pytest

from dti_repro.lesson import Draw, Lesson
from dti_repro.results.run import ConceptFolder


def assert_same(a: ConceptFolder, b: ConceptFolder) -> None:
    for name in ("embedding.safetensors", "last.ckpt", "log.csv", "concept.json"):
        assert (a.path / name).is_file() == (b.path / name).is_file()
        assert not (a.path / name).is_file() or (a.path / name).read_bytes() == (b.path / name).read_bytes(), name


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die while drawing a later step's samples, as a killed process would: nothing is tidied up."""
    draw = Lesson.draw

    def dying(self: Lesson, *arguments: int) -> Draw:
        if self.step == step:
            raise MemoryError
        return draw(self, *arguments)

    monkeypatch.setattr(Lesson, "draw", dying)
