"""Generate images of trained concepts, or of the words that they are compared with.

`text=class|description` takes the class word or the description of a concept in place of its trained vectors. Each
image folder has a manifest with the prompt and the seed of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import finished_concepts
from dti_repro.artifacts.tracking import run_label, tracking
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.inference.generator import draw_missing
from dti_repro.inference.image_folder import ImageFolder
from dti_repro.inference.selection import image_folders_of_run, image_folders_of_text
from dti_repro.launch.command import command


def generate(cfg: DictConfig) -> list[Path]:
    """Draw what is missing; return the image folders, each with its manifest.json."""
    return _generate(cfg)[0]


def _generate(cfg: DictConfig) -> tuple[list[Path], int]:
    """Draw what is missing; return the image folders and how many images were drawn."""
    validate("generate", cfg)
    if (cfg.run is None) == (cfg.text is None):
        raise InputError("give either run=<folder> or text=class|description")
    if cfg.run is None:
        image_folders = image_folders_of_text(cfg)
    else:
        image_folders = image_folders_of_run(finished_concepts(cfg.run), cfg)
    drawn = draw_missing(image_folders, cfg)
    if image_folders:
        _track(cfg, image_folders)
    total = sum(len(image_folder.manifest.images) for image_folder in image_folders)
    print(f"{drawn} images drawn, {total - drawn} were drawn before:")
    for image_folder in image_folders:
        print(f"  {image_folder.path}")
    return [image_folder.path for image_folder in image_folders], drawn


def _track(cfg: DictConfig, image_folders: Sequence[ImageFolder]) -> None:
    """Show the images of each concept in the logger."""
    concepts = list(dict.fromkeys(image_folder.path.parents[1].name for image_folder in image_folders))
    first = image_folders[0].path  # <method>/<hash>/<seed>/<concept>/images/<id>, or text_class/<concept>/images/<id>
    of = [f"text_{cfg.text}"] if cfg.text else first.parts[-6:-4]
    prompts = image_folders[0].manifest.generation["prompts"]
    with tracking(cfg, "generate", *of, prompts, run_label(concepts), first.name) as tracker:
        for image_folder in image_folders:
            key = "/".join(image_folder.path.parts[-4:-2])
            images = image_folder.manifest.images
            tracker.images(
                key, {f"{image.prompt}, seed {image.seed}": image_folder.path / image.file for image in images}
            )
            tracker.numbers({f"{key}/images": len(images)})


@command("generate")
def main(cfg: DictConfig) -> int:
    return _generate(cfg)[1]


if __name__ == "__main__":
    main()
