"""The held-out subjects with their reference pictures, and the prompt sets.

``python -m dti_repro.toybox.subjects`` writes them into the package. Everything is drawn from fixed streams and written
once; the files in the package are what the protocol names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from dti_repro.artifacts.files import atomic_write, write_file
from dti_repro.toybox.drawing import render
from dti_repro.toybox.language import describe, template
from dti_repro.toybox.looks import held_out_subject
from dti_repro.toybox.sampling import WORLD, sample_scene
from dti_repro.toybox.scene import ACCESSORIES, BACKGROUNDS, OBJECT_COLORS, OTHERS, RELATIONS

TABLE = ("bird", "car", "cat", "dog", "fish", "house", "mug", "robot", "bird2", "car2", "dog2", "mug2")
VALIDATION = ("val_cat", "val_fish", "val_house", "val_robot", "val_dog", "val_mug")
REFERENCES = 5
REFERENCES_ALONE = 3  # show nothing beside the subject
_TABLE_STREAM, _VALIDATION_STREAM, _PROMPT_STREAM = 2, 3, 4
PROMPT_SETS = {
    # name: (count, chance of an accessory, chance of a second object, stream)
    "toybox_simple": (12, 0.4, 0.0, 0),
    "toybox_complex": (16, 0.6, 1.0, 1),
    "toybox_validation": (8, 0.6, 1.0, 2),
    "toybox_preview": (4, 0.5, 0.5, 3),
}


def write_subjects(folder: Path) -> None:
    """One folder of PNG references a subject and ``subjects.yaml``; no two references share background or neighbour."""
    listed = {}
    for split, stream, names in (("table", _TABLE_STREAM, TABLE), ("validation", _VALIDATION_STREAM, VALIDATION)):
        for index, name in enumerate(names):
            rng = np.random.default_rng([WORLD, stream, index])
            cls = name.removeprefix("val_").rstrip("0123456789")
            subject, known = held_out_subject(rng, cls, index)
            backgrounds = rng.permutation(BACKGROUNDS)[:REFERENCES]
            neighbours = [*rng.permutation(OTHERS)[: REFERENCES - REFERENCES_ALONE], *["none"] * REFERENCES_ALONE]
            files = []
            for k, (background, other) in enumerate(zip(backgrounds, rng.permutation(neighbours), strict=True)):
                scene = sample_scene(rng, subject, background=str(background), other=str(other), accessory="none")
                path = folder / name / f"{k}.png"
                with atomic_write(path) as temporary:
                    Image.fromarray(render(scene)).save(temporary)
                files.append(path.name)
            description = describe(subject)
            listed[name] = {"initializer": cls, "split": split, "description": description, **known, "images": files}
    _write_yaml(
        folder / "subjects.yaml", listed, "Held-out subjects of the toybox; written by dti_repro.toybox.subjects."
    )


def write_prompts(folder: Path) -> None:
    for name, (count, accessory_share, other_share, stream) in PROMPT_SETS.items():
        rng = np.random.default_rng([WORLD, _PROMPT_STREAM, stream])
        # Every value comes up before any comes up twice.
        values = {key: iter(_cycle(rng, choices, count)) for key, choices in _ASKED.items()}
        orders = rng.permutation((np.arange(count) + 0.5) / count)
        prompts = []
        for k in range(count):
            has_accessory, has_other = (k % 5) < 5 * accessory_share, (k % 4) < 4 * other_share
            scene = sample_scene(
                rng,
                background=next(values["background"]),
                accessory=next(values["accessory"]) if has_accessory else "none",
                other=next(values["other"]) if has_other else "none",
                relation=next(values["relation"]),
                accessory_color=next(values["accessory_color"]),
                other_color=next(values["other_color"]),
            )
            own = ("class", "color", "pattern")  # of the subject, which the prompt leaves open
            expect = {key: value for key, value in scene.attributes().items() if key not in own}
            prompts.append({"template": template(scene, rng, float(orders[k])), "expect": expect})
        comment = f"Prompts of the toybox; written by dti_repro.toybox.subjects, world {WORLD}."
        _write_yaml(folder / f"{name}.yaml", {"name": name, "prompts": prompts}, comment)


_ASKED = {
    "background": BACKGROUNDS,
    "accessory": ACCESSORIES,
    "accessory_color": OBJECT_COLORS,
    "other": OTHERS,
    "other_color": OBJECT_COLORS,
    "relation": RELATIONS,
}


def _cycle(rng: np.random.Generator, choices: tuple[str, ...], count: int) -> list[str]:
    rounds = [rng.permutation(choices) for _ in range(-(-count // len(choices)))]
    return [str(value) for value in np.concatenate(rounds)[:count]]


def _write_yaml(path: Path, content: dict, comment: str) -> None:
    write_file(path, f"# {comment}\n" + yaml.safe_dump(content, sort_keys=False, width=120))


if __name__ == "__main__":
    here = Path(__file__).parent
    write_subjects(here / "subjects")
    write_prompts(here.parent / "conf" / "prompt_sets")
