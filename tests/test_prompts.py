"""Prompt sets: those of the package, files of every kind, and what is wrong with one in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dti_repro.data.prompts import load_prompts
from dti_repro.errors import InputError


@pytest.mark.parametrize(("name", "count", "live"), [("simple", 41, 41), ("complex_lv1", 16, 16), ("style", 40, 0)])
def test_our_prompt_sets_are_as_large_as_the_papers(name: str, count: int, live: int) -> None:
    """Of the paper: simple 41 and 41, complex_lv1 and complex_lv2 16 and 16, style 40."""
    prompts = load_prompts(name)
    assert len({p.template for p in prompts.prompts}) == count
    assert len({p.template for p in prompts.live}) == live
    if name == "complex_lv1":
        second = load_prompts("complex_lv2")
        assert (len({p.template for p in second.prompts}), len({p.template for p in second.live})) == (16, 16)


def test_prompt_files(tmp_path: Path) -> None:
    lines = tmp_path / "mine.txt"
    lines.write_text("# comment\na {} and a {}\n\n{a} next to {b-1}\n")
    prompts = load_prompts(str(lines)).prompts
    assert prompts[0].fill({"x": "<x>"}) == "a <x> and a <x>"
    assert prompts[1].fill({"a": "A", "b-1": "B"}) == "A next to B"
    assert prompts[1].names == ("a", "b-1")
    lines.write_text("a {}\n", encoding="utf-8-sig")  # as some editors write it
    assert load_prompts(str(lines)).prompts[0].template == "a {}"
    for bad in ("{", "{} next to {a}", "{0!r}", "{:>3}"):
        lines.write_text(bad)
        with pytest.raises(InputError, match="mine"):
            load_prompts(str(lines))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.yaml", "a: &a [1]\nprompts: [*a, *a]", "aliases"),
        ("x.yaml", "[" * 2000, "nested too deeply"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.txt", "a {}\n" * 300_000, "larger than 1 MiB"),
        ("x.json", "[5]", "5 is neither a template"),
        ("x.json", '{"prompts": "a {}"}', "a list of prompts is needed"),
        ("x.json", '[{"template": 5}]', "of text"),
        ("x.json", '[{"template": "a {}", "expect": ["class"]}]', "of text"),
        ("x.json", '[{"template": "a {}", "expect": {"class": 5}}]', "of text"),
        ("x.json", r'["a {} \ud800"]', "is not a template"),
        ("x.yaml", "{prompts: ['a {}'], live: ['{rex} asleep']}", "two kinds"),
        ("x.yaml", "{prompts: ['a {}'], live: [asleep]}", "has no {}"),
        ("x.yaml", "{prompts: ['a {}'], live: 'a {}'}", "lists `prompts` and `live`"),
        ("x.yaml", "live: ['a {}']", "lists `prompts` and `live`"),
        ("x.yaml", "prompts: []", "no prompt in it"),
        ("x.txt", b"a {} \xff", "cannot be read as prompts"),
    ],
)
def test_odd_prompt_files_are_one_line(name: str, content: str | bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"{name}.*{complaint}"):
        load_prompts(str(path))
