"""What a configuration may hold, and the objects that are built from it."""

from dti_repro.config.build import build, target
from dti_repro.config.plugins import CONF
from dti_repro.config.schema import describe, validate

__all__ = ["CONF", "build", "describe", "target", "validate"]
