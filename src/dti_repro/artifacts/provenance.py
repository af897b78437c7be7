"""Where and with what something was computed; kept apart from results, so that equal results are equal bytes."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from importlib.metadata import version
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "pytorch-lightning", "peft", "timm", "open_clip_torch", "dti-repro")


def provenance(began: float, device: str) -> dict[str, Any]:
    """began: time.time() at the start (seconds); device: `cpu` or `cuda`. Times are UTC, `seconds` is wall clock."""
    import torch

    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(max(0.0, time.time() - began), 3),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
    }
