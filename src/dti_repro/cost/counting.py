"""Count FLOPs and memory on the meta device, where tensors have shapes and no data: nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

META = torch.device("meta")
# Names of the functions that autocast to bfloat16 computes in each type: torch's lists for CUDA, as far as needed.
IN_BFLOAT16 = {"linear", "conv2d", "conv3d", "scaled_dot_product_attention", "bmm", "baddbmm", "matmul", "__matmul__"}
IN_FLOAT32 = {"group_norm", "layer_norm", "softmax", "pow", "rsqrt"}
ATTENTION = torch.ops.aten._scaled_dot_product_efficient_attention
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_efficient_attention_backward


@dataclass(frozen=True)
class Cost:
    """FLOPs of matrix products, convolutions and attention, two for a multiply-add. peak: bytes that are alive at once,
    without the weights."""

    forward: int
    backward: int
    peak: int

    @property
    def flops(self) -> int:
        return self.forward + self.backward

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward, self.peak + other.peak)


def measure(run: Callable[[], object], weights: Iterable[Tensor], autocast: bool = False) -> Cost:
    """Count the cost of run() on the meta device, and of the backward pass from the scalar that it returns, if any.

    autocast: to bfloat16. What fused attention computes a second time in its backward pass does not count, as is usual
    where utilisations of models are compared.
    """
    cost = CostMode(weights)
    with cost, GpuMode(autocast):
        out = run()
        forward = cost.flops
        if isinstance(out, Tensor) and out.requires_grad:
            # out.backward() would switch GpuMode off, which gradient checkpointing needs; from the edge it stays on.
            torch.autograd.backward(get_gradient_edge(out), torch.ones_like(out))
        del out
    return Cost(forward, cost.flops - forward, cost.peak)


class CostMode(TorchDispatchMode):
    """Count FLOPs by torch's formulas, and the bytes of the storages that are alive, also of tensors that autograd
    saves.

    torch's FlopCounterMode keeps tensors alive: its hooks hold the inputs of each module until the module is done.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.alive = WeakIdKeyDictionary({weight.untyped_storage(): True for weight in weights})
        self.flops = self.bytes = self.peak = 0
        self.formulas = {**flop_registry, ATTENTION_BACKWARD: _attention_backward_flops}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := self.formulas.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for storage in [tensor.untyped_storage() for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]:
            if storage not in self.alive:
                self.alive[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, size: int) -> None:
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


class GpuMode(TorchFunctionMode):
    """Do on the meta device what a GPU does: autocast, and attention in one kernel, which keeps no matrix of scores.

    A question about values is answered with no: transformers asks whether a prompt has no padding.
    """

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self.autocast = autocast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        if self.autocast and name in IN_BFLOAT16 | IN_FLOAT32:
            dtype = torch.bfloat16 if name in IN_BFLOAT16 else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, (args, kwargs))
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, enable_gqa: bool = False, **more: Any) -> Tensor:
    """Compute scaled_dot_product_attention by a fused kernel. Mask, dropout and scale change no count: left out."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return ATTENTION(query, key, value, None, torch.is_grad_enabled())[0]


def _attention_backward_flops(grad: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> int:
    """Count a product for each wanted gradient of query, key and value, and one for the gradient of the scores, which
    the first two need."""
    wanted = rest[6][:3]
    return (sum(wanted) + any(wanted[:2])) * sdpa_flop_count(query.shape, key.shape, value.shape) // 2
