"""Count the operations and bytes of a computation on the meta device, where tensors have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

META = torch.device("meta")
ATEN = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """forward, backward: operations, two for a multiply-add, of matrix products, convolutions and attention. peak:
    bytes alive at once besides the weights."""

    forward: int
    backward: int
    peak: int

    @property
    def flops(self) -> int:
        return self.forward + self.backward


def measure(run: Callable[[], object], weights: Iterable[Tensor], autocast: bool = False) -> Cost:
    """Count what run() costs, and the backward pass from the scalar that it returns, if that has one.

    weights: they are not counted as memory. autocast: to bfloat16. Attention is fused; what its backward pass computes
    again is not counted as operations, as is usual where a utilisation is meant to compare models.
    """
    held = _Held(weights)
    counter = FlopCounterMode(display=False, custom_mapping={_BACKWARD: _attention_backward_flops})
    with held, counter, AsOnDevice(autocast):
        out = run()
        forward = counter.get_total_flops()
        if isinstance(out, Tensor) and out.requires_grad:
            out.backward()
        del out
    return Cost(forward, counter.get_total_flops() - forward, held.peak)


def recomputing(autocast: bool) -> Callable[..., Any]:
    """Return the function with which a model of diffusers checkpoints: the second computation, in the backward pass,
    needs the function mode of the first one, which torch has left by then."""

    def run(module: nn.Module, *arguments: Any) -> Any:
        again = {"context_fn": lambda: (nullcontext(), AsOnDevice(autocast))}
        return checkpoint(module.__call__, *arguments, use_reentrant=False, **again)

    return run


class _Held(TorchDispatchMode):
    """Count the bytes of the storages that are alive, autograd's saved tensors among them."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in weights}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.now -= size


class AsOnDevice(TorchFunctionMode):
    """Do what the meta device does not: attention in one kernel, which keeps no matrix of scores, and autocast. A
    question about values is answered no: transformers asks whether a prompt has no padding."""

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self.autocast = autocast

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        kwargs = kwargs or {}
        if self.autocast:
            dtype = torch.bfloat16 if func in _IN_BFLOAT16 else torch.float32 if func in _IN_FLOAT32 else None
            if dtype is not None:
                args, kwargs = tree_map_only(Tensor, lambda tensor: _cast(tensor, dtype), (args, kwargs))
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


# torch's lists for CUDA, as far as these models use them; group_norm and layer_norm have two names.
_IN_BFLOAT16 = {
    F.linear, F.conv2d, F.conv3d, F.scaled_dot_product_attention, torch.bmm, torch.baddbmm, torch.matmul,
    Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
}  # fmt: skip
_IN_FLOAT32 = {
    F.group_norm, F.layer_norm, torch.group_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax,
    Tensor.pow, torch.pow, torch.rsqrt, Tensor.rsqrt,
}  # fmt: skip


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute scaled_dot_product_attention by the kernel that works with any mask and dtype."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype).expand(*query.shape[:2], query.shape[2], key.shape[2])
    operation = ATEN._scaled_dot_product_efficient_attention
    return operation(query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]


_BACKWARD = ATEN._scaled_dot_product_efficient_attention_backward


def _attention_backward_flops(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **options: Any
) -> int:
    """Count a product for each wanted gradient of query, key and value, and one for the gradient of the scores, which
    the first two need. The arguments are shapes."""
    _, _, _, _, _, _, (of_query, of_key, of_value, _), *_ = rest
    products = of_query + of_key + of_value + (of_query or of_key)
    return products * sdpa_flop_count(query, key, value) // 2
