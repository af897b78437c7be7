"""What an evaluator costs for one image and one text. The functions take what the encoders of
`dti_repro.metrics.encoders` take, so that a metric's yaml serves both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints
from dti_repro.planning.counting import measure
from dti_repro.planning.sketch import META

Settings = Mapping[str, Any] | None


@dataclass(frozen=True)
class Evaluator:
    """FLOPs of one image and of one text, and how many numbers it has."""

    checkpoint: str
    parameters: int
    image: int
    text: int = 0


def evaluator(config: Mapping[str, Any]) -> Evaluator:
    """Of a metric's yaml. InputError for a checkpoint whose architecture is not known here."""
    encoder = config.get("encoder", config)  # a metric that is one network is a classifier of timm
    kind = str(encoder.get("_target_")).removesuffix(".load").rpartition(".")[2] if "encoder" in config else TIMM
    known = {key: encoder[key] for key in ("checkpoint", "preprocess", "pretrained", "padding") if key in encoder}
    name = f"evaluator '{known.get('checkpoint', kind)}'"
    if kind not in COUNTED:
        raise InputError(f"{name}: there is no plan for {kind} (there is for: {', '.join(COUNTED)})")
    try:
        return COUNTED[kind](**known)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, TypeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: its architecture is not known here ({reason})") from error


def _timm(checkpoint: str, preprocess: Settings = None) -> Evaluator:
    import timm

    name = checkpoints.resolve(checkpoint)
    network = _frozen(lambda: timm.create_model(name, pretrained=False))
    size = _side(preprocess) or timm.data.resolve_model_data_config(network)["input_size"][-1]
    return Evaluator(checkpoint, _count(network), _flops(network, network, _pixels(size)))


def _clip(checkpoint: str, preprocess: Settings = None, pretrained: str | None = None) -> Evaluator:
    import open_clip

    folder = checkpoints.folder(checkpoint)
    if folder is None:
        settings = open_clip.get_model_config(checkpoint)
    else:
        settings = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    if settings is None:
        raise InputError(f"evaluator '{checkpoint}' is no architecture of open_clip")
    text = {k: v for k, v in settings["text_cfg"].items() if k != "hf_tokenizer_name"}
    network = _frozen(lambda: open_clip.CLIP(settings["embed_dim"], settings["vision_cfg"], text))
    ids = torch.zeros(1, text["context_length"], dtype=torch.long, device=META)
    size = settings["vision_cfg"]["image_size"]
    return Evaluator(
        checkpoint,
        _count(network),
        _flops(network, network.encode_image, _pixels(size)),
        _flops(network, network.encode_text, ids),
    )


def _dinov2(checkpoint: str, preprocess: Mapping[str, Any]) -> Evaluator:
    from transformers import Dinov2Config, Dinov2Model

    network = _frozen(lambda: Dinov2Model(Dinov2Config(**_widths(checkpoint))))
    return Evaluator(checkpoint, _count(network), _flops(network, network, _pixels(_side(preprocess))))


def _siglip(checkpoint: str, preprocess: Mapping[str, Any], padding: int = 64) -> Evaluator:
    from transformers import SiglipConfig, SiglipModel

    network = _frozen(lambda: SiglipModel(SiglipConfig(**_widths(checkpoint))))
    ids = torch.zeros(1, padding, dtype=torch.long, device=META)
    return Evaluator(
        checkpoint,
        _count(network),
        _flops(network, network.vision_model, _pixels(_side(preprocess))),
        _flops(network, network.text_model, ids),
    )


TIMM = "TimmEncoder"
COUNTED: Mapping[str, Callable[..., Evaluator]] = {
    TIMM: _timm,
    "ClipEncoder": _clip,
    "Dinov2Encoder": _dinov2,
    "SiglipEncoder": _siglip,
}


def _widths(checkpoint: str) -> dict[str, Any]:
    """The published config of an evaluator of transformers."""
    import yaml

    from dti_repro.planning.architecture import SHIPPED

    known = yaml.safe_load((SHIPPED.parent / "evaluators.yaml").read_text())
    if checkpoint not in known:
        raise InputError(
            f"evaluator '{checkpoint}': its architecture is not known here (there are: {', '.join(known)})"
        )
    return known[checkpoint]


def _side(preprocess: Settings) -> int | None:
    """Pixels of a side of what the network sees."""
    if preprocess is None:
        return None
    resize = preprocess["resize"]
    return preprocess["crop"] or (resize[0] if isinstance(resize, list) else resize)


def _pixels(side: int) -> torch.Tensor:
    return torch.empty(1, 3, side, side, device=META)


def _frozen(make: Callable[[], nn.Module]) -> nn.Module:
    with META:
        return make().requires_grad_(False).eval()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _flops(network: nn.Module, call: Callable[..., object], argument: torch.Tensor) -> int:
    with torch.no_grad():
        return measure(lambda: call(argument), network.parameters()).flops
