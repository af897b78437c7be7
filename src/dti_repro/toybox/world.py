"""A world: what its scenes show and how they are described. Networks are pretrained on either world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dti_repro.errors import InputError
from dti_repro.toybox.scene import Instance, Scene

Describe = Callable[[Scene, np.random.Generator], str]


@dataclass(frozen=True)
class World:
    """What pretraining takes from a world. ``version`` is part of every scene's seed, so worlds share no scene."""

    version: int
    words: tuple[str, ...]  # every word with a trained row
    sample_scene: Callable[..., Scene]
    sample_subject: Callable[[np.random.Generator], Instance]
    caption: Describe
    full_caption: Describe  # implies every fact
    swapped: Callable[[Scene, np.random.Generator], dict[str, str]]
    attributes: dict[str, tuple[str, ...]]  # what the reader reads: name -> labels
    facts: dict[str, tuple[str, ...]]  # what a complete caption tells: name -> labels
    values: Callable[[Scene], dict[str, str]]  # fact -> label, absent ones left out
    look: Callable[[Scene], np.ndarray]  # numbers of the subject's look, each about in [-1, 1]
    told: Callable[[Scene, str], np.ndarray]  # which of these numbers a caption of the scene tells
    held_out_subject: Callable[[np.random.Generator, str, int], tuple[Instance, dict]]  # and what is known of its place
    describe: Callable[[Instance], str]
    references_alone: int  # how many references of a held-out subject show nothing beside it

    def scene_of(self, stream: int, index: int) -> Scene:
        """Return scene ``index`` of a stream."""
        return self.sample_scene(np.random.default_rng([self.version, stream, index]))


@lru_cache
def world(version: int) -> World:
    """Return a world by its version; InputError where there is none."""
    from dti_repro.toybox import language, scene, world2

    if version == 1:
        facts = {**scene.ATTRIBUTES, "pattern": scene.PATTERNS}
        return World(
            version=1,
            words=language.WORDS,
            sample_scene=scene.sample_scene,
            sample_subject=scene.sample_instance,
            caption=language.caption,
            full_caption=language.full_caption,
            swapped=language.swapped,
            attributes=scene.ATTRIBUTES,
            facts=facts,
            values=lambda scene: {**scene.attributes(), "pattern": scene.subject.pattern},
            look=lambda scene: np.zeros(0, np.float32),
            told=lambda scene, caption: np.zeros(0, np.float32),
            held_out_subject=lambda rng, cls, index: (scene.sample_instance(rng, cls), {}),
            describe=language.describe,
            references_alone=2,
        )
    if version == 2:
        return World(
            version=2,
            words=world2.language.WORDS,
            sample_scene=world2.scene.sample_scene,
            sample_subject=world2.looks.sample_free,
            caption=world2.language.caption,
            full_caption=world2.language.full_caption,
            swapped=world2.language.swapped,
            attributes=world2.scene.ATTRIBUTES,
            facts=world2.scene.FACTS,
            values=world2.scene.values,
            look=world2.scene.look,
            told=world2.language.told,
            held_out_subject=world2.looks.held_out_subject,
            describe=world2.language.describe,
            references_alone=3,
        )
    raise InputError(f"there is no world {version} (choices: 1, 2)")
