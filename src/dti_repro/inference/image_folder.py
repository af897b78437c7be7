"""Which image belongs into which folder, and what it depends on.

Imports no torch: what is drawn already is found within a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.manifest import Manifest, ManifestImage
from dti_repro.artifacts.run_dir import check_name, config_hash
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.location import located
from dti_repro.data.prompts import Prompt, PromptSet, check_template
from dti_repro.errors import InputError

PROMPT_KEYS = ("pool", "instruction")
"""Keys of backbones that change how a prompt is encoded."""
SAMPLING = ("steps", "sampler", "sampler_options", "height", "width")
"""What a backbone's `generate` and its `check_generation` both take."""


def settings_of(backbone: DictConfig) -> dict[str, Any]:
    """Return the keys of a backbone's node that images depend on, besides its weights."""
    dtype = {} if backbone.dtype == "float32" else {"dtype": backbone.dtype}
    if backbone.get("as_published"):  # which has an instruction of its own
        return {"as_published": True, **dtype}
    return {**{key: backbone[key] for key in PROMPT_KEYS if key in backbone}, **dtype}


@dataclass(frozen=True)
class GenerationConfig:
    """What an image depends on besides its prompt, seed and vectors."""

    backbone: str
    weights: str  # fingerprint
    sampler: str
    sampler_options: Mapping[str, Any]
    steps: int
    guidance: float
    negative_prompt: str  # a template, which may have fields
    width: int | None
    height: int | None
    backbone_settings: Mapping[str, Any] = field(default_factory=dict)  # of the backbone's node

    @classmethod
    def of(cls, cfg: DictConfig) -> GenerationConfig:
        """Return it from a validated configuration. InputError for a negative prompt that is no template."""
        check_template(cfg.negative_prompt, "negative_prompt")
        return cls(
            backbone=check_name(str(cfg.backbone.name), "backbone.name"),
            weights=fingerprint(located(cfg.backbone))[:16],
            sampler=cfg.sampler.scheduler,
            sampler_options=OmegaConf.to_container(cfg.sampler.options),
            steps=cfg.steps,
            guidance=float(cfg.guidance),
            negative_prompt=cfg.negative_prompt,
            width=cfg.width,
            height=cfg.height,
            backbone_settings=settings_of(cfg.backbone),
        )

    @property
    def sampling(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in SAMPLING}


@dataclass(frozen=True)
class Subject:
    """What stands in a prompt's field: a learned word's placeholder, or plain words."""

    name: str
    word: str  # as the model reads it
    text: str  # as a text score reads it: the class word
    embedding_sha256: str | None = None
    live: bool = False  # a person or an animal
    after: str = ""  # what stands after the word: the class word, for a word that was learned so

    @property
    def phrase(self) -> str:
        return f"{self.word} {self.after}".rstrip()


@dataclass(frozen=True)
class ImageFolder:
    """The images of one folder `images/<id>/` and the vectors that their placeholders stand for."""

    path: Path
    manifest: Manifest
    vectors: Mapping[str, Path] = field(default_factory=dict)  # placeholder -> embedding
    adapter: Path | None = None  # its folder, where the vectors were learned with one

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of a backbone's `generate` besides prompts, words and seeds."""
        return {key: self.manifest.generation[key] for key in (*SAMPLING, "guidance", "negative_prompt")}

    def missing(self) -> list[ManifestImage]:
        return self.manifest.missing(self.path)


def build_image_folder(
    images: Path,
    subjects: Sequence[Subject],
    prompts: PromptSet,
    seeds: Sequence[int],
    settings: GenerationConfig,
    *,
    vectors: Mapping[str, Path] | None = None,
    snapshot: int | None = None,
    adapter: Path | None = None,
    negative_subjects: Sequence[Subject] = (),
) -> ImageFolder:
    """Return the images of the prompts that are about exactly these subjects, below `images`/<generation id>/.

    Files are p<prompt>_s<seed>.png, numbered through the whole set, so that a set's prompts keep their numbers where
    only some of them are about these subjects. negative_subjects: others that the negative prompt may name. InputError
    for a negative prompt that names none of these.
    """
    names = {subject.name for subject in subjects}
    prompts = prompts.about(live=all(subject.live for subject in subjects))
    generation = {
        **asdict(settings),
        "prompts": prompts.name,
        "seeds": list(seeds),
        "negative_prompt": _fill_negative_prompt(settings.negative_prompt, subjects, negative_subjects),
    }
    generation |= generation.pop("backbone_settings")
    if snapshot is not None:
        generation["snapshot"] = snapshot
    if any(subject.after for subject in subjects):
        generation["with_class"] = True
    manifest_images = [
        ManifestImage(
            file=f"p{number:03d}_s{seed}.png",
            prompt=prompt.fill({subject.name: subject.phrase for subject in subjects}),
            template=prompt.template,
            text=prompt.fill({subject.name: subject.text for subject in subjects}),
            seed=seed,
            concepts=prompt.names or tuple(names),
            expect=expected(prompt, [subject.text for subject in subjects]),
        )
        for number, prompt in enumerate(prompts.prompts)
        if set(prompt.names) == names or (not prompt.names and len(subjects) == 1)
        for seed in seeds
    ]
    learned = [subject for subject in (*subjects, *negative_subjects) if subject.embedding_sha256]
    digests = {subject.name: subject.embedding_sha256 for subject in learned}
    templates = [prompt.template for prompt in prompts.prompts]
    # Hydra would read `generation=<id>` as a number if it had digits alone, or an e between them.
    path = images / f"g{config_hash({'generation': generation, 'templates': templates})}"
    return ImageFolder(path, Manifest(generation, digests, tuple(manifest_images)), vectors or {}, adapter)


def _fill_negative_prompt(template: str, subjects: Sequence[Subject], others: Sequence[Subject]) -> str:
    fields = check_template(template, "negative_prompt")
    words = {subject.name: subject.phrase for subject in (*subjects, *(others if any(fields) else ()))}
    if unknown := [name for name in fields if name and name not in words]:
        known = ", ".join(words)
        raise InputError(f"negative_prompt: there is no concept '{unknown[0]}' here (there are: {known}; or {{}})")
    if "" in fields and len(words) > 1:
        raise InputError(f"negative_prompt: {{}} could be {' or '.join(words)} here: name one, {{{next(iter(words))}}}")
    return Prompt(template).fill(words)


def expected(prompt: Prompt, class_words: Sequence[str]) -> dict[str, str] | None:
    """Return what an attribute reader should see; of a single subject also its class."""
    if prompt.expect is None:
        return None
    return {**({"class": class_words[0]} if len(class_words) == 1 else {}), **prompt.expect}
