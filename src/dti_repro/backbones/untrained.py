"""A backbone's checkpoint at its published widths without its published weights: configs alone, or random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.backbone import Backbone
from dti_repro.config import target

SHARD = "2GB"
SPARE_ROWS = 84  # of UMT5's embedding table, after those of its vocabulary


def write_checkpoint(
    backbone: Mapping[str, Any], file: Path, folder: Path, *, weights: bool, widths: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint in diffusers' format, one part after the other.

    backbone: the plain `backbone` node of a configuration. file: its `published_file`. weights: random ones in
    bfloat16, in shards, and tokenizers with vocabularies of the published sizes. Without them there are configs and
    empty files, and a tokenizer that makes a token of each four letters, which is about right for English. widths:
    part -> keys that replace those of the published config; other names are left out.
    """
    published = read_yaml(file)
    changes = {part: keys for part, keys in (widths or {}).items() if part in published["parts"]}
    published = OmegaConf.to_container(OmegaConf.merge(published, {"parts": changes}))
    kind, classes = target(backbone["_target_"], Backbone), part_classes(backbone)
    index: dict[str, Any] = {"_class_name": kind.PIPELINE_CLASS.__name__}
    index |= {key: [None, None] if value is None else value for key, value in kind.PIPELINE_OPTIONS.items()}
    for part, config in published["parts"].items():
        (folder / part).mkdir(parents=True)
        if weights:
            random_model(classes[part], config).save_pretrained(folder / part, max_shard_size=SHARD)
        else:
            (folder / part / "config.json").write_text(json.dumps(config))
            (folder / part / "model.safetensors").touch()  # a checkpoint must have it; it is not read
        index[part] = [classes[part].__module__.partition(".")[0], classes[part].__name__]
    for name, encoder in kind.ENCODERS.items():
        config, pad = published["parts"][name], published.get("pad_tokens", {}).get(encoder.tokenizer)
        tokenizer = _tokenizer(config, pad) if weights else _four_letters(config.get("max_position_embeddings"))
        tokenizer.save_pretrained(folder / encoder.tokenizer)
        index[encoder.tokenizer] = ["transformers", type(tokenizer).__name__]
    scheduler = published["scheduler"]
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps(index))


def part_classes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return part of the checkpoint -> its class in transformers or diffusers."""
    kind = target(backbone["_target_"], Backbone)
    encoders = {name: encoder.architecture for name, encoder in kind.ENCODERS.items()}
    return {**encoders, kind.DENOISER: kind.DENOISER_CLASS, "vae": kind.VAE_CLASS}


def random_model(kind: Any, config: Mapping[str, Any]) -> Any:
    """Return an untrained model of this class of transformers or diffusers, in bfloat16."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # a float32 model of twice the size is never there
    try:
        if issubclass(kind, PreTrainedModel):
            return kind(kind.config_class(**config))
        return kind.from_config(config)
    finally:
        torch.set_default_dtype(default)


def _tokenizer(config: Mapping[str, Any], pad_token: str | None) -> PreTrainedTokenizerBase:
    """Return a tokenizer for a text encoder of this config. pad_token: of CLIP, None for another encoder."""
    from dti_repro.backbones.untrained_tokenizers import clip_tokenizer, gemma_tokenizer, t5_tokenizer

    if pad_token is not None:
        return clip_tokenizer(pad_token)
    if "d_model" in config:
        return t5_tokenizer(config["vocab_size"] - SPARE_ROWS)
    return gemma_tokenizer(config["vocab_size"])


def _four_letters(length: int | None) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]{1,4}"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="?", model_max_length=length)
