"""Find the keys that take a password or a key of a service: configurations are written to files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SECRETS_STAY_OUT = "configurations are written to files: no secret belongs in them; W&B reads WANDB_API_KEY"


def is_secret(key: str) -> bool:
    """Return whether a configuration key is one that takes a password or a key of a service."""
    return re.search(r"(api_?key|password|passwd|secret|(access|auth)_?token)$", key, re.IGNORECASE) is not None


def secret_in(node: Any, at: str = "") -> str | None:
    """Return the dotted name of a key, at any depth, that takes a secret; None if there is none."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        name = f"{at}.{key}" if at else str(key)
        if found := name if is_secret(name) else secret_in(child, name):
            return found
    return None
