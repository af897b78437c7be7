"""The networks that metrics name, without trained weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import timm
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, SiglipModel

from dti_repro.artifacts.files import read_yaml, write_file
from dti_repro.backbones.untrained_tokenizers import t5_tokenizer
from dti_repro.metrics import catalogue


def untrained_network(checkpoint: str, widths: Mapping[str, Any] | None = None) -> tuple[nn.Module, int]:
    """Return the network and the side of its images in pixels; 0 where the metric's `preprocess` says it. widths: keys
    that replace those of the published config."""
    published = read_yaml(Path(__file__).with_name("published.yaml"))
    if checkpoint in published:
        return AutoModel.from_config(AutoConfig.for_model(**_merged(published[checkpoint], widths))), 0
    clip = _clip_config(checkpoint)
    if clip is not None:
        clip = _merged(clip, widths)
        text = {key: value for key, value in clip["text_cfg"].items() if key != "hf_tokenizer_name"}
        return open_clip.CLIP(clip["embed_dim"], clip["vision_cfg"], text), clip["vision_cfg"]["image_size"]
    network = timm.create_model(catalogue.resolve_weights(checkpoint), pretrained=False, **(widths or {}))
    return network, timm.data.resolve_model_data_config(network)["input_size"][-1]


def write_untrained_metric(metric: str, folder: Path, widths: Mapping[str, Any]) -> Path:
    """Write a metric of conf/metric with random weights, if it is not there: the weights, which metrics of the same
    checkpoint share, and then the yaml. Return the yaml. widths: checkpoint -> as in `untrained_network`."""
    file = folder / f"{metric}.yaml"
    if file.is_file():
        return file
    config = catalogue.metric_config(metric)
    encoder = catalogue.encoder_of(config)
    checkpoint = encoder["checkpoint"]
    weights, changes = folder / re.sub(r"\W+", "-", checkpoint), widths.get(checkpoint, {})
    network, _ = untrained_network(checkpoint, changes)
    encoder["checkpoint"] = f"{catalogue.LOCAL}{weights}"
    if isinstance(network, PreTrainedModel):
        network.save_pretrained(weights)
        if isinstance(network, SiglipModel):
            t5_tokenizer(network.config.text_config.vocab_size).save_pretrained(weights)
    elif isinstance(network, open_clip.CLIP):
        encoder["pretrained"] = None
        weights.mkdir(parents=True, exist_ok=True)
        both = {"model_cfg": _merged(_clip_config(checkpoint), changes), "preprocess_cfg": {}}
        (weights / "open_clip_config.json").write_text(json.dumps(both))
        save_file(network.state_dict(), weights / "open_clip_model.safetensors")
    else:
        timm.models.save_for_hf(network, weights, model_args=dict(changes), safe_serialization=True)
    write_file(file, yaml.safe_dump(config))
    return file


def _clip_config(checkpoint: str) -> dict[str, Any] | None:
    """Return open_clip's config of a name or a folder, None for a checkpoint of another library."""
    folder = catalogue.weights_folder(checkpoint)
    if folder is not None and (folder / "open_clip_config.json").is_file():
        return json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.get_model_config(checkpoint)


def _merged(config: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.merge(config, changes or {}))
