"""What only a CPU forgives is found without a GPU: tensors are fake, have a device and no content, and an operation on
tensors of two devices raises. The device is meta: without a driver, torch computes no gradients on a fake cuda.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import LearnedWord
from dti_repro.backbones.text_encoder import PlaceholderTokenizer
from dti_repro.config import build
from dti_repro.launch.failures import choices
from dti_repro.methods.base import TokenMethod
from dti_repro.methods.word_files import learned_word
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.networks import write_untrained_metric
from dti_repro.training.concept_state import ConceptState
from dti_repro.training.train_missing import train
from tests.contract.test_methods import ONE_CODE
from tests.tiny_backbones import SAME_CODE, tiny_backbone

Training = Callable[..., DictConfig]
GPU = torch.device("meta")


class Strict(TorchDispatchMode):
    """Refuses what fake tensors let pass and CUDA does not: to index a tensor on the CPU with one on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            there = {index.device.type for index in args[1] if index is not None}
            assert args[0].device.type != "cpu" or there == {"cpu"}, "a tensor on the CPU, indexed on the GPU"
        return func(*args, **(kwargs or {}))


def _number(mode: FakeTensorMode, function: Any, tensor: FakeTensor) -> float | int | bool:
    """What a program reads with .item(), .tolist() or bool()."""
    return False if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 0


def _one_place(mode: FakeTensorMode, function: Any, tensor: FakeTensor) -> Tensor:
    """Where a tensor is not zero."""
    return torch.zeros(1, tensor.ndim, dtype=torch.long, device=tensor.device)


def _content(tensor: FakeTensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError("NumPy cannot read the GPU")
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """gpu() -> a context with a fake GPU, on which loaded models lie. Ids and the pixels of photos stay real."""

    class Accelerator(CPUAccelerator):
        def setup_device(self, device: torch.device) -> None: ...

    tokenize, preprocess, trainer = PlaceholderTokenizer.__call__, v2.Compose.forward, pl.Trainer

    def real_ids(self: PlaceholderTokenizer, *arguments: Any) -> Any:
        with unset_fake_temporarily():
            return tokenize(self, *arguments)

    def real_pixels(self: v2.Compose, *photos: Image.Image) -> Tensor:
        with unset_fake_temporarily():
            return preprocess(self, *photos).as_subclass(Tensor)

    def on_gpu(**options: Any) -> pl.Trainer:
        return trainer(**{**options, "accelerator": Accelerator(), "strategy": SingleDeviceStrategy(device=GPU)})

    def move(self: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
        """Behind `.to` and `.cpu`: torch's own cannot exchange a fake tensor that others know."""
        for module in self.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if isinstance(tensor, FakeTensor):
                        tensor.fake_device = function(tensor).device
                    elif tensor is not None:
                        there = function(tensor)
                        tensors[name] = nn.Parameter(there, False) if tensors is module._parameters else there
        return self

    @contextmanager
    def faked() -> Iterator[None]:
        with FakeTensorMode(allow_non_fake_inputs=True), Strict():
            yield

    monkeypatch.setattr(PlaceholderTokenizer, "__call__", real_ids)
    monkeypatch.setattr(v2.Compose, "forward", real_pixels)
    monkeypatch.setattr(nn.Module, "_apply", move)
    read = fake_impls.op_implementations_dict
    monkeypatch.setitem(read, torch.ops.aten._local_scalar_dense.default, _number)
    monkeypatch.setitem(read, torch.ops.aten.nonzero.default, _one_place)
    monkeypatch.setitem(read, torch.ops.aten.equal.default, lambda *_: True)
    monkeypatch.setattr(FakeTensor, "numpy", _content)
    monkeypatch.setattr(pl, "Trainer", on_gpu)
    return faked


SLOW = (*SAME_CODE, "sd15")  # the toybox's code
TESTED = ("dti", "ti_rescaled")  # with each backbone; it has no training
METHODS = [pytest.param(name, marks=pytest.mark.slow if name in ONE_CODE else ()) for name in choices("method")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in choices("backbone")]
)
def test_a_training_and_a_generation_on_one_device(
    name: str, training: Training, tmp_path: Path, gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toybox with two packs, one after the other."""
    names = ["ann", "bob"] if name == "toybox" else ["ann"]
    own = [f"backbone={name}"] if name == "toybox" else tiny_backbone(name, tmp_path / name)
    _train_and_generate(training(*own, f"concepts.names=[{','.join(names)}]", "trainer.pack=1"), gpu, monkeypatch)


@pytest.mark.parametrize("method", [method for method in METHODS if method.values[0] not in TESTED])
def test_each_method_on_one_device(
    method: str, training: Training, gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _train_and_generate(training(f"method={method}", "concepts.names=[ann]"), gpu, monkeypatch)


def _train_and_generate(cfg: DictConfig, gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.trainer.steps = cfg.trainer.batch = 1
    settings = OmegaConf.to_container(cfg.backbone)
    settings.pop("generation", None)
    backbone: Backbone = build(settings, Backbone)
    learned: dict[str, LearnedWord] = {}
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: backbone)
    monkeypatch.setattr("dti_repro.training.checks.check_words", lambda *_: None)  # reads weights from a file
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fake")
    monkeypatch.setattr(ConceptState, "save", lambda *_: None)

    def learn(path: Path, placeholder: str, method: TokenMethod, c: int, *more: Any) -> None:
        assert {rows.device for rows in method.vectors(c).values()} == {GPU}
        loaded = build(cfg.method, TokenMethod)  # as from a file, which is read on the CPU
        loaded.load({k: rows.cpu() for k, rows in method.state(c).items()}, cfg.method.vectors or 1, backbone.spec)
        learned[placeholder] = learned_word(loaded, 0)

    monkeypatch.setattr("dti_repro.training.callbacks.save_word", learn)
    with gpu():
        backbone.to(GPU)
        train(cfg)
        assert {tensor.device for tensor in backbone.state_dict().values()} == {GPU}
        side = backbone.spec.resolution
        prompts = [" beside ".join(f"a {word}" for word in learned)]
        images = backbone.generate(prompts, learned, [0], steps=1, guidance=5.0, height=side, width=side)
    assert [image.size for image in images] == [(side, side)]


@pytest.mark.parametrize("names", [("toybox_image", "toybox_clip_t"), ("clip_i", "clip_t", "dino", "dinov2", "siglip")])
def test_scores_on_one_device(names: Sequence[str], tmp_path: Path, gpu: Callable[..., Any]) -> None:
    """The published evaluators are narrow here."""
    image, samples = Image.new("RGB", (16, 16)), [Sample("ann", "a cat", {"class": "cat"})] * 2
    for name in names:
        widths = read_yaml(Path(__file__).with_name("narrow_widths.yaml"))
        file = name if name.startswith("toybox") else str(write_untrained_metric(name, tmp_path, widths))
        metric = deepcopy(build(metric_config(file), ImageMetric))  # encoders are shared, and stay real for others
        with gpu():
            metric.to(GPU)
            metric.set_references("ann", [image, image])
            assert len(metric.score([image, image], samples)) == 2
