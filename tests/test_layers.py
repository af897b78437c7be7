"""A reader finds what a module uses below it: no package imports from a higher layer, and there is no import circle."""

from pathlib import Path

from importlinter.cli import lint_imports


def test_the_import_contracts_hold() -> None:
    assert lint_imports(config_filename=str(Path(__file__).parents[1] / "pyproject.toml"), no_cache=True) == 0
