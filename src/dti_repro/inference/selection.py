"""Which images a command asks for: of the learned words of a run, or of plain words."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, StrictBool, ValidationError
from pydantic.dataclasses import dataclass

from dti_repro.adapters.folder import adapter_of
from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.run_dir import ConceptFolder, check_trained_on, embedding_files, embedding_sha256
from dti_repro.config import build
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.prompts import Prompt, PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import (
    PROMPT_KEYS,
    GenerationConfig,
    ImageFolder,
    Subject,
    build_image_folder,
)


def image_seeds(value: int | list[int]) -> list[int]:
    """Return seeds=[0,1] or seeds=0 as a list."""
    return value if isinstance(value, list) else [value]


def asked_images(cfg: DictConfig) -> tuple[PromptSet, list[int], GenerationConfig]:
    """Return the prompts, the seeds and the settings of a validated configuration."""
    values = OmegaConf.to_container(cfg)
    return load_prompts(values["prompts"]), image_seeds(values["seeds"]), GenerationConfig.of(cfg)


def image_folders_of_run(folders: Sequence[ConceptFolder], cfg: DictConfig) -> list[ImageFolder]:
    """Return an image folder for each concept, and one for each set of concepts that a prompt names."""
    prompts, seeds, settings = asked_images(cfg)
    folders = _chosen(folders, cfg)
    check_trained_on(settings.backbone, folders[0], f"run={cfg.run}")
    _warn_of_other_settings(folders, cfg.backbone, settings.weights)
    image_folders, negative = [], Prompt(settings.negative_prompt)
    for seed_folder, group in groupby(folders, key=lambda folder: folder.seed_folder):
        files = {folder.name: _embedding(folder, cfg.snapshot) for folder in group}
        known = {name: learned_subject(ConceptFolder(seed_folder / name), file) for name, file in files.items()}
        if cfg.with_class:
            known = {name: replace(subject, after=subject.text) for name, subject in known.items()}
        for names in _combinations(prompts, list(known), seed_folder):
            if (length := len("+".join(names))) > 255:  # what file systems take
                raise InputError(f"a prompt names {len(names)} concepts: {length} letters together, at most 255 fit")
            subjects = [known[name] for name in names]
            others = [subject for subject in known.values() if subject.name not in names]
            in_negative = [s for s in others if s.name in negative.names or s.word in negative.template]
            vectors = {subject.word: files[subject.name] for subject in (*subjects, *in_negative)}
            image_folders.append(
                build_image_folder(
                    seed_folder / "+".join(names) / "images",
                    subjects,
                    prompts,
                    seeds,
                    settings,
                    vectors=vectors,
                    snapshot=cfg.snapshot,
                    adapter=_adapter(vectors),
                    negative_subjects=in_negative,
                )
            )
    return image_folders


def _warn_of_other_settings(folders: Sequence[ConceptFolder], backbone: DictConfig, weights: str) -> None:
    """Print which settings that change an image are not those of the training. They may differ: a fine-tuned model can
    draw a word that was learned on another."""
    now = {"weights": weights, **{key: backbone[key] for key in (*PROMPT_KEYS, "as_published") if key in backbone}}
    for config, folder in {folder.config: folder for folder in folders}.items():
        node = folder.settings("backbone")
        then = {"as_published": False, **node} if node else {}
        then["weights"] = str(then.get("weights", weights))[: len(weights)]
        named = {"weights": "weights (backbone.path)"}
        other = [named.get(key, f"backbone.{key}") for key, value in now.items() if then.get(key, value) != value]
        if other:
            keys = " and ".join(other)
            print(
                f"{config.parent} was trained with other {keys}: the same keys draw as it was trained", file=sys.stderr
            )


def image_folders_of_text(cfg: DictConfig) -> list[ImageFolder]:
    """Return the image folders of the concepts' own words, below <runs>/<backbone>/text_<class|description>/."""
    prompts, seeds, settings = asked_images(cfg)
    if cfg.snapshot is not None:
        raise InputError(f"snapshot={cfg.snapshot} needs run=<folder>; words have no snapshots")
    if cfg.with_class:
        raise InputError(f"with_class=true needs run=<folder>; text={cfg.text} draws the words by themselves")
    if any(prompt.names for prompt in prompts.prompts):
        raise InputError(f"prompts={prompts.name} names concepts, text={cfg.text} draws each by itself: use {{}}")
    root = Path(cfg.runs) / settings.backbone / f"text_{cfg.text}"
    concepts: list[Concept] = build(cfg.concepts, ConceptSet).load()
    image_folders = []
    for concept in concepts:
        words = concept.class_word if cfg.text == "class" else concept.description
        if not words:
            raise InputError(f"concept '{concept.name}' has no description: only text=class can be drawn")
        subject = Subject(concept.name, words, concept.class_word, live=concept.live)
        image_folders.append(build_image_folder(root / concept.name / "images", [subject], prompts, seeds, settings))
    return image_folders


def learned_subject(folder: ConceptFolder, embedding: Path) -> Subject:
    """Return a trained concept as a subject of prompts. InputError if its concept.json is missing or damaged."""
    advice = f"train {folder.name} again"
    try:
        metadata = _Metadata(**read_json(folder.metadata, advice))
    except ValidationError as error:
        raise InputError(f"{folder.metadata} is damaged: {advice}") from error
    concept = Concept(folder.name, images=(), **asdict(metadata))
    digest = embedding_sha256(embedding)
    return Subject(concept.name, concept.placeholder, concept.class_word, digest, live=concept.live)


@dataclass(frozen=True)
class _Metadata:
    """What prompts need of a concept.json, which may come from elsewhere."""

    placeholder: Annotated[str, Field(pattern="^<.*>$")]
    initializer: str
    class_word: str = ""
    live: StrictBool = False


def _chosen(folders: Sequence[ConceptFolder], cfg: DictConfig) -> list[ConceptFolder]:
    """Return the folders that concepts.names asks for; all if it asks for none."""
    names = OmegaConf.to_container(cfg.concepts).get("names")
    wanted = names if isinstance(names, list) else [names]
    if not names or wanted == ["all"]:
        return list(folders)
    if unknown := set(wanted) - {folder.name for folder in folders}:
        known = ", ".join(sorted({folder.name for folder in folders}))
        raise InputError(f"concepts.names: {min(unknown)} is not in run={cfg.run} (there are: {known})")
    return [folder for folder in folders if folder.name in wanted]


def _embedding(folder: ConceptFolder, snapshot: int | None) -> Path:
    if snapshot is None:
        return folder.embedding
    path = folder.snapshot(snapshot)
    if not embedding_files(path):
        steps = ", ".join(sorted({p.name[5:11] for p in path.parent.glob("step_*.safetensors")}))
        raise InputError(f"snapshot={snapshot}: {folder.path} has none of that step (there are: {steps or 'none'})")
    return path


def _adapter(vectors: Mapping[str, Path]) -> Path | None:
    """Return the adapter of the only word. InputError if a word with an adapter is not the only one."""
    adapters = [found for found in map(adapter_of, vectors.values()) if found is not None]
    if adapters and len(vectors) > 1:
        raise InputError(
            f"a prompt names {' and '.join(vectors)}, which were learned with an adapter each: only words without "
            "adapters can be drawn together"
        )
    return next(iter(adapters), None)


def _combinations(prompts: PromptSet, names: Sequence[str], seed_folder: Path) -> list[tuple[str, ...]]:
    """Return the sets of concepts that the prompts are about: each alone for {}, named ones together, sorted."""
    found: dict[tuple[str, ...], None] = {}
    for prompt in prompts.prompts:
        if unknown := [name for name in prompt.names if name not in names]:
            raise InputError(
                f"prompt {prompt.template!r}: {seed_folder} has no concept '{unknown[0]}' "
                f"(there are: {', '.join(names)}; {{}} is each by itself)"
            )
        found |= dict.fromkeys([tuple(sorted(prompt.names))] if prompt.names else [(name,) for name in names])
    return list(found)
