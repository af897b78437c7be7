"""Where a run on one of the paper's models differs from the published code, for the notes under its table.

docs/deviations.md explains each. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """What is done here, and what the published code does."""

    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"Differs from the published code: {self.ours} (there: {self.theirs}). See docs/deviations.md."


_SHARED = (
    Deviation("photos are resized with Lanczos and cropped at the centre", "bicubic, cropped at random"),
    Deviation("noise is drawn on the CPU", "on the GPU"),
)
_VAE = Deviation("the autoencoder draws in float32", "in bfloat16")
_MASKS = Deviation("masks are black or white, cut at 127", "the photo is multiplied by the grey value")
BY_BACKBONE = {
    "dti_repro.backbones.sdxl.StableDiffusionXL": (
        *_SHARED,
        Deviation(
            "the model is told the size of the square that it is trained on, without a crop",
            "each photo's own size and the corner of its crop",
        ),
        Deviation("all frozen weights have `backbone.dtype`", "CLIP-L in float32, the others in bfloat16"),
        Deviation("a word of several vectors stands in a prompt once", "twice in generation"),
    ),
    "dti_repro.backbones.sana.Sana": (
        *_SHARED,
        _VAE,
        Deviation("no prompt is padded", "DTI's prompts begin with 0 to 15 zero vectors"),
    ),
    "dti_repro.backbones.wan.Wan": (*_SHARED, _VAE),
}


def deviations(backbone: str, masked: bool) -> tuple[Deviation, ...]:
    """Return those that concern a table on this backbone (the dotted name of its class); none for a model that the
    paper did not use. ``masked``: whether references were masked."""
    found = BY_BACKBONE.get(backbone, ())
    return (*found, _MASKS) if found and masked else found
