"""Several processes for one command end as one would: all done, or one clear error and nobody left at work."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from dti_repro.artifacts.lock import BusyError
from dti_repro.errors import DivergedError, InputError
from dti_repro.launch.devices import run_on_devices

ITEMS = ["a", "b", "c", "d", "e"]


def work(folder: Path, error: Exception | None, items: list[str]) -> None:
    """Write a file for each item; the process that has "b" raises the error before that, and unless it only says that
    others are busy, the other process would be at it for long."""
    if error is not None and "b" in items:
        raise error
    print(f"{items} are being done")
    for item in items:
        (folder / item).write_text(str(os.getpid()))
    if type(error) is InputError:
        time.sleep(300)


def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match="b has no photos"):
        run_on_devices(partial(work, tmp_path, InputError("b has no photos")), ITEMS, 2, "cpu")
    assert time.monotonic() - began < 100
    assert not any(Path(f"/proc/{path.read_text()}").exists() for path in tmp_path.iterdir())


@pytest.mark.parametrize("error", [BusyError("b is being drawn"), DivergedError("b diverged", "b")])
def test_what_another_command_is_at_or_what_diverged_stops_nobody(
    error: Exception, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error), match=str(error)):
        run_on_devices(partial(work, tmp_path, error), ITEMS, 2, "cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c", "e"}
    assert capfd.readouterr().out == "['a', 'c', 'e'] are being done\n"


def mixed(items: list[str]) -> None:
    raise InputError("b has no photos") if "b" in items else BusyError("a is being drawn")


def test_that_another_is_busy_hides_no_other_error() -> None:
    with pytest.raises(InputError, match="b has no photos"):
        run_on_devices(mixed, ITEMS, 2, "cpu")


def test_one_item_needs_no_second_process(tmp_path: Path) -> None:
    run_on_devices(partial(work, tmp_path, None), ["a"], 4, "cpu")
    assert (tmp_path / "a").read_text() == str(os.getpid())
