"""Which pictures a command asks for: of the learned words of a run, or of plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapter_of
from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.run_dir import ConceptFolder, embedding_sha256
from dti_repro.config import build
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.prompts import Prompt, PromptSet
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, Subject, image_folder


def image_seeds(value: int | list[int]) -> list[int]:
    """Return seeds=[0,1] or seeds=0 as a list."""
    return value if isinstance(value, list) else [value]


def of_run(
    folders: Sequence[ConceptFolder],
    cfg: DictConfig,
    prompts: PromptSet,
    seeds: Sequence[int],
    settings: GenerationConfig,
) -> list[ImageFolder]:
    """One image_folder for each concept, and one for each set of concepts that a prompt names."""
    folders = _chosen(folders, cfg)
    trained_on = folders[0].path.parents[3].name
    if trained_on != settings.backbone:
        raise InputError(f"run={cfg.run} was trained on {trained_on}: add backbone={trained_on}")
    image_folders, negative = [], Prompt(settings.negative_prompt)
    for seed_folder, group in groupby(folders, key=lambda folder: folder.seed_folder):
        here = {folder.name: folder for folder in group}
        files = {name: _embedding(folder, cfg.snapshot) for name, folder in here.items()}
        known = {name: learned_subject(here[name], file) for name, file in files.items()}
        combinations = _combinations(prompts, list(here), seed_folder)
        for names in combinations:
            subjects = [known[name] for name in names]
            avoided = [known[name] for name in known if name not in names and _is_in(negative, known[name])]
            vectors = {subject.word: files[subject.name] for subject in (*subjects, *avoided)}
            made = {"vectors": vectors, "avoided": avoided, "snapshot": cfg.snapshot, "adapter": _adapter(vectors)}
            images = seed_folder / _joined(names) / "images"
            image_folders.append(image_folder(images, subjects, prompts, seeds, settings, **made))
    return image_folders


def _is_in(negative: Prompt, subject: Subject) -> bool:
    return subject.name in negative.names or subject.word in negative.template


def _adapter(vectors: Mapping[str, Path]) -> Path | None:
    """That of the words' only one. InputError for a word with an adapter beside another word."""
    adapters = [found for found in map(adapter_of, vectors.values()) if found is not None]
    if adapters and len(vectors) > 1:
        raise InputError(
            f"a prompt names {' and '.join(vectors)}, which were learned with an adapter each: only words without "
            "adapters can be drawn together"
        )
    return next(iter(adapters), None)


def of_text(cfg: DictConfig, prompts: PromptSet, seeds: Sequence[int], settings: GenerationConfig) -> list[ImageFolder]:
    """The concepts' own words, below <runs>/<backbone>/text_<class|description>/<concept>/."""
    if cfg.snapshot is not None:
        raise InputError(f"snapshot={cfg.snapshot} needs run=<folder>; words have no snapshots")
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
        image_folders.append(image_folder(root / concept.name / "images", [subject], prompts, seeds, settings))
    return image_folders


def learned_subject(folder: ConceptFolder, embedding: Path) -> Subject:
    """A trained concept as something that stands in a prompt. InputError if its concept.json is missing."""
    try:
        facts = read_json(folder.facts, f"train {folder.name} again")
        word, live = facts.get("class_word", ""), facts.get("live", False)
        texts = (word, facts["placeholder"], facts["initializer"])
        if not (all(isinstance(text, str) for text in texts) and isinstance(live, bool)):
            raise TypeError("words are strings, and live is true or false")
        if not (facts["placeholder"].startswith("<") and facts["placeholder"].endswith(">")):
            raise TypeError("a placeholder has angle brackets")
        concept = Concept(folder.name, facts["placeholder"], facts["initializer"], (), class_word=word, live=live)
    except (TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{folder.facts} is damaged: train {folder.name} again") from error
    digest = embedding_sha256(embedding)
    return Subject(concept.name, concept.placeholder, concept.class_word, digest, live=concept.live)


def _chosen(folders: Sequence[ConceptFolder], cfg: DictConfig) -> list[ConceptFolder]:
    """Those that concepts.names asks for; all if it asks for none."""
    names = OmegaConf.to_container(cfg.concepts).get("names")
    wanted = names if isinstance(names, list) else [names]
    if not names or wanted == ["all"]:
        return list(folders)
    if unknown := set(wanted) - {folder.name for folder in folders}:
        there = ", ".join(sorted({folder.name for folder in folders}))
        raise InputError(f"concepts.names: {min(unknown)} is not in run={cfg.run} (there are: {there})")
    return [folder for folder in folders if folder.name in wanted]


def _embedding(folder: ConceptFolder, snapshot: int | None) -> Path:
    if snapshot is None:
        return folder.embedding
    path = folder.snapshot(snapshot)
    if not folder.has_snapshot(snapshot):
        steps = ", ".join(sorted({p.name[5:11] for p in path.parent.glob("step_*.safetensors")}))
        raise InputError(f"snapshot={snapshot}: {folder.path} has none of that step (there are: {steps or 'none'})")
    return path


def _combinations(prompts: PromptSet, names: Sequence[str], seed_folder: Path) -> list[tuple[str, ...]]:
    """The sets of concepts that the prompts are about: each alone for {}, named ones together, sorted."""
    found: dict[tuple[str, ...], None] = {}
    for prompt in prompts.prompts:
        if unknown := [name for name in prompt.names if name not in names]:
            raise InputError(
                f"prompt {prompt.template!r}: {seed_folder} has no concept '{unknown[0]}' "
                f"(there are: {', '.join(names)}; {{}} is each by itself)"
            )
        for combination in [tuple(sorted(prompt.names))] if prompt.names else [(name,) for name in names]:
            found[combination] = None
    return list(found)


def _joined(names: Sequence[str]) -> str:
    """The folder of pictures of these concepts together. InputError where file systems would not take its name."""
    joined = "+".join(names)
    if len(joined) > 255:
        raise InputError(f"a prompt names {len(names)} concepts whose names are {len(joined)} long: at most 255")
    return joined
