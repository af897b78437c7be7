"""Find the keys that take a password or a key of a service: configurations are written to files."""

from __future__ import annotations

import re
from typing import Any

from dti_repro.config.values import walk

SECRETS_STAY_OUT = "configurations are written to files: no secret belongs in them; W&B reads WANDB_API_KEY"


def is_secret(key: str) -> bool:
    """Return whether a configuration key is one that takes a password or a key of a service."""
    return re.search(r"(api_?key|password|passwd|secret|(access|auth)_?token)$", key, re.IGNORECASE) is not None


def secret_in(content: Any) -> str | None:
    """Return the dotted name of a key, at any depth, that takes a secret; None if there is none."""
    return next((key for key, _ in walk(content) if is_secret(key.rpartition(".")[2])), None)
