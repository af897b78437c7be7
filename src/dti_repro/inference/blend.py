"""The pictures of `dti blend`: any point between two words, drawn when it is asked for. Nothing is written to disk."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig
from pydantic import Field, PositiveInt

from dti_repro.config.schema import PagePrompt, Seed
from dti_repro.config.values import check_value
from dti_repro.data.prompts import load_prompts
from dti_repro.errors import InputError
from dti_repro.inference.generator import check_drawing
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, build_image_folder
from dti_repro.inference.interpolation import WordPair, check_single


@dataclass(frozen=True)
class Request:
    """A picture that is asked for. share: 0 is the word a, 1 is b."""

    mode: Literal["slerp", "lerp"]
    share: Annotated[float, Field(ge=0, le=1)]
    prompt: PagePrompt
    seed: Seed
    steps: PositiveInt

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """Return the request that this JSON is. InputError that names what is wrong in it."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError("the request is no JSON") from error
        hints = get_type_hints(cls, include_extras=True)
        if not isinstance(content, dict) or content.keys() != hints.keys():
            raise InputError(f"the request must have exactly {', '.join(hints)}")
        return cls(**{key: check_value(content[key], hint, key) for key, hint in hints.items()})


class Blend:
    """Two words and the model that draws what lies between them. Only one thread at a time may draw."""

    def __init__(self, cfg: DictConfig) -> None:
        """Check what the first pictures need. InputError, before a model is loaded, for what cannot be drawn."""
        self._cfg = cfg
        self._settings = GenerationConfig.of(cfg)
        self._ends = WordPair.of(cfg, self._settings)
        self._point = self._ends.point()
        self._at = self._ends.interpolator()
        self._checked: tuple[Any, ...] = ()
        self._backbone: Any = None
        self._image_folder(Request("lerp", 0, cfg.prompt, cfg.seed, cfg.steps))

    @property
    def names(self) -> tuple[str, str]:
        return self._ends.names

    def load(self) -> None:
        import torch

        from dti_repro.backbones.load import load_backbone

        torch.set_num_threads(self._cfg.threads)
        self._backbone = load_backbone(self._cfg.backbone, self._cfg.accelerator)

    def draw(self, request: Request) -> tuple[bytes, float]:
        """Return the picture that `generate` draws of the point's vectors, as PNG, and the mean of their norms.
        InputError for what cannot be drawn."""
        from dti_repro.artifacts.embedding import for_encoders

        image_folder = self._image_folder(request)
        vectors = self._at(request.mode, request.share)
        (drawn,) = self._backbone.generate(
            [image.prompt for image in image_folder.manifest.images],
            {self._point.word: for_encoders(vectors, self._backbone.spec, self._ends.folders[0].embedding)},
            [request.seed],
            **image_folder.settings,
        )
        png = io.BytesIO()
        drawn.save(png, format="PNG")
        norms = [norm for rows in vectors.values() for norm in rows.norm(dim=-1).tolist()]
        return png.getvalue(), sum(norms) / len(norms)

    def _image_folder(self, request: Request) -> ImageFolder:
        """Return the one image of a request, in a folder that is never made. InputError unless it can be drawn."""
        settings = replace(self._settings, steps=request.steps)
        prompts = load_prompts([request.prompt])
        check_single(prompts)
        a = self._ends.folders[0]
        vectors = {self._point.word: a.embedding}  # of the shape of all points
        images = a.path / "blend"
        image_folder = build_image_folder(images, [self._point], prompts, [request.seed], settings, vectors=vectors)
        asked = (request.prompt, request.steps)
        if self._checked != asked:  # the check reads files; the slider changes none
            check_drawing([image_folder], self._cfg)
            self._checked = asked
        return image_folder
