"""Where a word starts: at its initializer, or at a word that was learned before, and what the tables say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.load import load_backbone
from dti_repro.config import build
from dti_repro.data.concept import ConceptSet
from dti_repro.errors import InputError
from dti_repro.experiments.training_columns import _start_norms
from dti_repro.methods.initializers import initial_vectors
from dti_repro.training.runs import start_of
from dti_repro.training.train_missing import train
from dti_repro.training.trainer import initializer_embedding

Training = Callable[..., DictConfig]


def vectors(folder: ConceptFolder) -> torch.Tensor:
    return load_embedding(folder.embedding)[1]


@pytest.mark.parametrize("method", ["ti", "p_plus", "neti"])
def test_the_norm_at_the_start_is_each_words_own(method: str, training: Training) -> None:
    """Words of one and of two vectors, of methods with other vectors for each layer or timestep, too."""
    cfg = training(f"method={method}", "concepts.names=[ann,bob]")
    concepts = {c.name: c for c in build(cfg.concepts, ConceptSet).load()}
    concepts["bob"] = replace(concepts["bob"], initializer="red car")
    found = _start_norms(cfg, concepts)
    rows = {
        c: load_backbone(cfg.backbone, "cpu").embed_initializer("x", w, 0).rows
        for c, w in (("ann", "cat"), ("bob", "red car"))
    }
    for name, by_encoder in rows.items():
        norm = torch.cat([vectors.norm(dim=-1) for vectors in by_encoder.values()]).mean().item()
        if method == "neti":  # whose bypass has a share of the norm
            assert 0 < found["start"][name] < norm
        else:
            assert found["start"][name] == pytest.approx(norm, rel=1e-5)
    assert ("noise" in found) == (method != "neti")  # whose vectors AdamW does not step


def test_the_norm_at_the_start_is_that_of_the_word_it_goes_on_from(training: Training) -> None:
    (before,) = train(training("method=ti", "concepts.names=[ann]"))
    cfg = training("method=ti", f"method.init={before.path}", "concepts.names=[bob]")
    concepts = {concept.name: concept for concept in build(cfg.concepts, ConceptSet).load()}
    assert _start_norms(cfg, concepts)["start"]["bob"] == pytest.approx(vectors(before).norm().item(), rel=1e-5)


def test_a_word_goes_on_from_its_own_word_of_its_own_seed(training: Training) -> None:
    runs = {seed: train(training("method=ti", "concepts.names=[ann,bob]", f"seed={seed}")) for seed in (42, 7)}
    (ann,) = build(training("concepts.names=[ann]").concepts, ConceptSet).load()
    hash_folder = runs[7][0].path.parents[1]
    cfg = training("method=ti", f"method.init={hash_folder}", "seed=7")
    assert start_of(cfg, ann) == runs[7][0].embedding
    cfg.seed = 3
    with pytest.raises(InputError, match="'ann' of several seeds"):
        start_of(cfg, ann)
    cfg.method.init = str(runs[7][0].seed_folder)
    with pytest.raises(InputError, match="has no concept 'cid'"):
        start_of(cfg, replace(ann, name="cid"))
    cfg.method.init = str(runs[7][1].path)  # a concept's own folder is for any
    assert start_of(cfg, ann) == runs[7][1].embedding


def test_copies_of_a_vector_start_apart_and_the_prior_knows_the_initializer_alone(training: Training) -> None:
    (folder,) = train(training("method=dti", "method.vectors=3", "concepts.names=[ann]", "trainer.steps=1"))
    cfg = training("method=dti", "method.vectors=3", "concepts.names=[ann]")
    backbone = load_backbone(cfg.backbone, "cpu")
    (ann,) = build(cfg.concepts, ConceptSet).load()
    initializer = initializer_embedding(cfg, ann, backbone)
    row = backbone.embed_initializer("ann", "cat", 42).rows
    for name, rows in initializer.rows.items():
        assert torch.equal(rows, row[name].expand(3, -1))
    start = initial_vectors("token", initializer, "text_encoder", backbone.spec.encoders["text_encoder"])
    assert torch.equal(start[0], row["text_encoder"][0])
    assert (start[1:] - start[0]).norm(dim=-1).tolist() == pytest.approx([0.1 * start[0].norm().item()] * 2, rel=1e-4)
    assert len(vectors(folder)) == 3
