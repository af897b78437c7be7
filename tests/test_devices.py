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


def work(folder: Path, errors: dict[str, Exception], items: list[str]) -> None:
    """Write a file for each item, or raise the error of one. Beside an InputError, it would take long."""
    for item in items:
        if item in errors:
            raise errors[item]
    print(f"{items} are being done")
    for item in items:
        (folder / item).write_text(str(os.getpid()))
    if any(type(error) is InputError for error in errors.values()):
        time.sleep(300)


def test_an_error_in_one_process_ends_all_and_that_another_is_busy_hides_it_not(tmp_path: Path) -> None:
    began, errors = time.monotonic(), {"a": BusyError("a is being drawn"), "b": InputError("b has no photos")}
    with pytest.raises(InputError, match="b has no photos"):
        run_on_devices(partial(work, tmp_path, errors), ITEMS, 3, "cpu")
    assert time.monotonic() - began < 100
    assert not any(Path(f"/proc/{path.read_text()}").exists() for path in tmp_path.iterdir())


def test_what_another_command_is_at_or_what_diverged_stops_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    errors = {"b": BusyError("b is being drawn"), "c": DivergedError("c diverged", "c")}
    with pytest.raises(DivergedError, match="c diverged"):
        run_on_devices(partial(work, tmp_path, errors), ITEMS, 3, "cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d"}
    assert capfd.readouterr().out == "['a', 'd'] are being done\n"


def test_one_item_needs_no_second_process(tmp_path: Path) -> None:
    run_on_devices(partial(work, tmp_path, {}), ["a"], 4, "cpu")
    assert (tmp_path / "a").read_text() == str(os.getpid())
