"""What the study reads: a checkpoint's text encoders, words of the vocabulary, learned words and their logs.

No torch until a text encoder or a vector is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_json, sha256
from dti_repro.artifacts.run_dir import (
    ConceptFolder,
    check_trained_on,
    config_hash,
    embedding_files,
    finished_concepts,
    read_header,
)
from dti_repro.backbones.checkpoint import COPY_AGAIN, encoder_dims, fingerprint
from dti_repro.backbones.location import located
from dti_repro.errors import InputError
from dti_repro.experiments.mechanism.part import VOCABULARY, Part, published

if TYPE_CHECKING:
    from torch import Tensor

    from dti_repro.backbones.text_encoder import TextEncoder

FORMAT = 1  # of the measurements: a higher one makes old CSVs be computed again


@dataclass(frozen=True)
class Learned:
    """An embedding, and the run that it comes from. group: the method, or "files" for an embedding without a run."""

    group: str
    name: str
    files: tuple[Path, ...]
    run: ConceptFolder | None = None


@dataclass(frozen=True)
class Word:
    """One vector of one text encoder; a learned word of several vectors counts as several words. own: its row in the
    vocabulary, None for a learned one."""

    group: str
    name: str
    vector: Tensor  # (dim,)
    own: int | None = None


@dataclass(frozen=True)
class Inputs:
    """Everything that a part may read."""

    cfg: DictConfig
    checkpoint: Path
    learned: tuple[Learned, ...]

    @classmethod
    def of(cls, cfg: DictConfig) -> Inputs:
        """Find the checkpoint and the learned words. InputError for a word that does not exist, or was learned on
        another backbone."""
        checkpoint = located(cfg.backbone)
        return cls(cfg, checkpoint, tuple(_learned(list(cfg.runs), cfg.backbone.name, checkpoint)))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the checkpoint's files."""
        return fingerprint(self.checkpoint)

    def digest(self, part: Part) -> str:
        """Return a digest of all that the numbers of a part depend on."""
        content: dict[str, Any] = {"format": FORMAT, "part": part.NAME, "checkpoint": self.fingerprint, "more": None}
        content |= {key: OmegaConf.to_container(self.cfg)[key] for key in part.KEYS}
        content["learned"] = [[word.group, word.name, *map(sha256, word.files)] for word in self.learned]
        if hasattr(part, "depends"):
            content |= part.depends(self)
        return config_hash(content)

    @property
    def logged(self) -> list[tuple[str, ConceptFolder]]:
        """Group and run of the learned words that have a log."""
        return [(w.group, w.run) for w in self.learned if w.run is not None and w.run.log.is_file()]

    @cached_property
    def encoders(self) -> dict[str, TextEncoder]:
        """The text encoders alone, in float32 on the CPU, with attention that can be read."""
        return load_encoders(self.cfg.backbone._target_, self.checkpoint)

    @cached_property
    def mean_norms(self) -> dict[str, float]:
        """The mean norm of the vocabulary of each text encoder."""
        from dti_repro.backbones.base import EncoderSpec

        return {name: EncoderSpec.of(encoder.table).norm("mean") for name, encoder in self.encoders.items()}

    @cached_property
    def vectors(self) -> list[dict[str, Tensor]]:
        """Text encoder -> (vectors, dim) of each learned word. InputError that names a file of another width."""
        from dti_repro.artifacts.embedding import load_any_layout

        dims = encoder_dims(self.checkpoint)
        return [load_any_layout(word.files, dims) for word in self.learned]

    def words(self, encoder: str) -> list[Word]:
        """Return the words of `words` that are one token of this text encoder, and the learned ones. InputError if
        there is neither."""
        from dti_repro.backbones.checkpoint import initializer_ids

        tokenizer, table = self.encoders[encoder].tokenizer.tokenizer, self.encoders[encoder].table
        found = []
        for text in self.cfg.words:
            ids = initializer_ids(tokenizer, text)
            if len(ids) == 1 and bool(table[ids[0]].any()):
                found.append(Word(VOCABULARY, text, table[ids[0]].detach().float(), ids[0]))
        for word, vectors in zip(self.learned, self.vectors, strict=True):
            rows = vectors[encoder]
            names = [word.name] if len(rows) == 1 else [f"{word.name} {k + 1}" for k in range(len(rows))]
            found += [Word(word.group, name, row) for name, row in zip(names, rows, strict=True)]
        if not found:
            raise InputError(
                f"words={list(self.cfg.words)}: none is one token of {encoder} of {self.checkpoint}: name words that "
                "it knows, or give runs=[...]"
            )
        return found


def load_encoders(target_name: str, checkpoint: Path) -> dict[str, TextEncoder]:
    """Return the text encoders of a checkpoint as `Backbone.load_text_encoders`, with attention that can be read."""
    import torch
    import transformers

    from dti_repro.backbones.backbone import Backbone
    from dti_repro.config import target

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    encoders = target(target_name, Backbone).load_text_encoders(checkpoint, torch.float32)
    for encoder in encoders.values():
        encoder.requires_grad_(False).eval()
        encoder.model.set_attn_implementation("eager")  # the only one that returns its weights
    return encoders


def encoder_facts(checkpoint: Path) -> list[str]:
    """Return of each text encoder what its config.json says, and the published encoder of the same size."""
    facts = []
    for name, width in encoder_dims(checkpoint).items():
        config = read_json(checkpoint / name / "config.json", COPY_AGAIN)
        layers = config.get("num_hidden_layers", config.get("num_layers"))
        found = {"model_type": config.get("model_type"), "width": width, "layers": layers}
        same = [label for label, known in published()["encoders"].items() if found.items() <= known.items()]
        size = f"the size of {same[0]}" if same else "no published figure is about its size"
        facts.append(f"{name}: {found['model_type']}, {width} wide, {layers} layers; {size}")
    return facts


def _learned(sources: Sequence[str], backbone: str, checkpoint: Path) -> list[Learned]:
    from dti_repro.artifacts.embedding import METHOD, check_file

    words, folders = [], []
    for source in map(Path, sources):
        if source.suffix and source.is_file():
            check_file(source)
            name = source.resolve().parent.name if source.stem == "embedding" else source.stem  # as a run names it
            words.append(Learned("files", name, (source,)))
        else:
            folders += finished_concepts(source)
    hashes = {(folder.path.resolve().parents[2].name, folder.path.resolve().parents[1].name) for folder in folders}
    methods = [method for method, _ in hashes]
    expected = fingerprint(checkpoint) if folders else ""
    for folder in dict.fromkeys(folders):
        path = folder.path.resolve()
        method, config = (path.parents[k].name for k in (2, 1))
        check_trained_on(backbone, folder, f"runs: {folder.path}")
        if folder.settings("backbone").get("weights") not in (expected, None):
            raise InputError(
                f"runs: {folder.path} was trained with other weights than {checkpoint}: name their backbone.path"
            )
        if METHOD in read_header(folder.embedding):
            raise InputError(
                f"runs: {folder.path}: {method} learns other vectors for each layer or timestep, and the study reads "
                "one for each word: leave it out"
            )
        group = method if methods.count(method) == 1 else f"{method} {config}"
        if (group, folder.name) in {(word.group, word.name) for word in words}:  # they are not independent
            raise InputError(
                f"runs: {folder.name} of {group} is there for two training seeds, and the study takes each word once: "
                f"name one seed folder, such as {path.parents[0]}"
            )
        words.append(Learned(group, folder.name, tuple(embedding_files(folder.embedding).values()), folder))
    return words
