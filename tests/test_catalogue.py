"""A metric is named by its yaml, and its weights by what they hold."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from dti_repro.config import build
from dti_repro.config.plugins import choices
from dti_repro.errors import InputError
from dti_repro.metrics import catalogue
from dti_repro.metrics.base import ImageMetric
from dti_repro.metrics.catalogue import encoder_of, metric_config, metric_identity
from dti_repro.metrics.encoders import preprocessing


@pytest.mark.parametrize("name", ["dino", "dinov2", "siglip", "clip_t", "vqa_score"])
def test_weights_that_cannot_be_had_are_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    missing = {"dino": "hf-hub:nobody/nothing", "clip_t": "hf-hub:nobody/nothing"}.get(name, "nobody/nothing")
    config = metric_config(name)
    encoder_of(config)["checkpoint"] = missing
    with pytest.raises(InputError) as error:
        build(config, ImageMetric)
    assert "nobody/nothing" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_local_folder_is_named() -> None:
    with pytest.raises(InputError, match="no folder /nowhere/at/all"):
        catalogue.resolve_weights("local-dir:/nowhere/at/all")


@pytest.mark.parametrize("name", choices("metric"))
def test_every_metric_yaml_has_exactly_its_constructors_keys(name: str) -> None:
    config = metric_config(name)
    for node in (config, *([config["encoder"]] if "encoder" in config else [])):
        signature = inspect.signature(get_object(node["_target_"]))
        assert set(node) == {"_target_", *signature.parameters}
    weights = config.get("encoder", config)
    assert weights["checkpoint"]
    if weights.get("preprocess") is not None:
        preprocessing(weights["preprocess"])


def test_an_unknown_metric_is_named_with_the_ones_there_are() -> None:
    with pytest.raises(InputError, match=r"'clipp' is unknown; there are clip_i, clip_t"):
        metric_config("clipp")


def test_scores_are_taken_again_when_the_metrics_configuration_changes() -> None:
    config = metric_config("clip_t")
    assert metric_identity(config) == metric_identity(metric_config("clip_t"))
    assert metric_identity(config) != metric_identity(metric_config("clip_i"))


@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_other_weights_in_the_same_folder_are_another_metric(name: str, tmp_path: Path) -> None:
    """Whether the folder is named alone, as transformers takes it, or as local-dir:."""
    for place in (str(tmp_path), f"local-dir:{tmp_path}"):
        identities = set()
        for content in (b"1", b"2"):
            (tmp_path / "model.safetensors").write_bytes(content)
            catalogue.weights_fingerprint.cache_clear()
            config = OmegaConf.merge(metric_config(name), {"encoder": {"checkpoint": place}})
            identities.add(metric_identity(OmegaConf.to_container(config)))
        assert len(identities) == 2
    assert catalogue.weights_fingerprint("facebook/dinov2-base") == "facebook/dinov2-base"
