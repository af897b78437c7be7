"""A narrow, untrained checkpoint for every backbone of conf/backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.tiny import build_tiny_clip_sd, build_tiny_sd, build_tiny_sdxl
from tests.tiny_flow import SIDE, build_tiny_sana, build_tiny_wan

BUILDERS: Mapping[str, tuple[Callable[[Path], Path], int]] = {  # and pixels of an image
    "sana_1600m": (build_tiny_sana, SIDE),
    "sana_4800m": (build_tiny_sana, SIDE),
    "sd15": (partial(build_tiny_clip_sd, openclip=False), 16),
    "sd21_base": (partial(build_tiny_clip_sd, openclip=True), 16),
    "sdxl": (build_tiny_sdxl, 16),
    "stable_diffusion": (build_tiny_sd, 16),
    "toybox": (build_tiny_sd, 16),
    "wan_1300m": (build_tiny_wan, SIDE),
}
SAME_CODE = ("sana_4800m", "sd21_base", "stable_diffusion")  # as sana_1600m, sd15 and toybox, with other settings


def tiny_backbone(name: str, folder: Path) -> list[str]:
    """Write the checkpoint, and return the overrides that choose it."""
    make, side = BUILDERS[name]
    overrides = [f"backbone={name}", f"backbone.path={make(folder)}"]
    return [*overrides, f"backbone.resolution={side}", "backbone.dtype=float32"]
