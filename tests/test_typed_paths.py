"""A path on the command line is taken as it is typed, whatever Hydra's grammar makes of such letters."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dti_repro.launch.command_line import quote_paths


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("path=/a/My Photos", "/a/My Photos"),
        ("path=/a/My Photos (1)", "/a/My Photos (1)"),
        ("path=photos(1)", "photos(1)"),
        ("path=/a/Rex's été & more!", "/a/Rex's été & more!"),
        ("path=~/photos", "/home/rex/photos"),
        ("path=~/My Photos (1)", "/home/rex/My Photos (1)"),
        ('path="a, b"', "a, b"),
        ("path=", ""),
        ("files=[/a/b (1).safetensors,~/c.safetensors]", ["/a/b (1).safetensors", "/home/rex/c.safetensors"]),
        ("run=runs/x/seed_42", "runs/x/seed_42"),
        ("train=[trainer.steps=4,seed=0]", ["trainer.steps=4", "seed=0"]),
        ("prompts=['a {} = (b)', c]", ["a {} = (b)", "c"]),
        ("kappa=1e-4", 1e-4),
        ("names=[a,1]", ["a", 1]),
        ("x=int(3)", 3),
    ],
)
def test_a_path_on_the_command_line_is_taken_as_it_is(
    typed: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/rex")
    assert OverridesParser.create().parse_override(quote_paths(typed)).value() == value


@pytest.mark.parametrize("argument", ["--cfg=job", "--config-dir=/a=b (c)", "-m", "path", "x=range(1,3)", "x={a: (b}"])
def test_what_is_no_path_stays(argument: str) -> None:
    assert quote_paths(argument) == argument
