"""Check saved adapters, and put one on a denoiser. No torch and no peft are imported before there is an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def check_adapters(folders: Iterable[Path]) -> None:
    """Raise InputError, which names the file, for an adapter that can be refused without a model."""
    for folder in folders:
        from dti_repro.adapters.files import read_config

        read_config(folder)


def adapted(denoiser: nn.Module, folder: Path | None) -> AbstractContextManager[None]:
    """Put the adapter of this folder, if any, on the denoiser; at the exit take it off. InputError, which names the
    file, for an adapter that does not fit."""
    if folder is None:
        return nullcontext()
    from dti_repro.adapters.files import loaded

    return loaded(denoiser, folder)
