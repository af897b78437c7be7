"""Attention in bfloat16 on a CPU: the faster way computes what torch's kernel computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dti_repro.backbones.cpu_attention import LONGEST, product_attention

CAUSAL = torch.ones(5, 7, dtype=torch.bool).tril(diagonal=2)
OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.5},
    "mask of booleans": {"attn_mask": CAUSAL},
    "mask that is added": {"attn_mask": torch.zeros(5, 7, dtype=torch.bfloat16).masked_fill(~CAUSAL, -1e4)},
}


def _inputs(keys: int = 7, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 5, 16), (2, 3, keys, 16), (2, 3, keys, 16)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def _gradients(inputs: list[Tensor], **options: object) -> list[Tensor]:
    out = functional.scaled_dot_product_attention(*inputs, **options)
    return [out, *torch.autograd.grad(out.float().square().sum(), inputs)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_outputs_and_gradients_are_those_of_torch(options: dict[str, object]) -> None:
    exact = {name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
             for name, value in options.items()}  # fmt: skip
    expected = _gradients([tensor.detach().float().requires_grad_() for tensor in _inputs()], **exact)
    with product_attention():
        found = _gradients(_inputs(), **options)
    assert "ScaledDotProduct" not in type(found[0].grad_fn).__name__
    for mine, torchs in zip(found, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), torchs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("keys", "dtype"), [(7, torch.float32), (LONGEST + 1, torch.bfloat16)])
def test_float32_and_many_keys_stay_with_torch(keys: int, dtype: torch.dtype) -> None:
    expected = _gradients(_inputs(keys, dtype))
    with product_attention():
        found = _gradients(_inputs(keys, dtype))
    assert all(map(torch.equal, found, expected))


def test_drawing_stays_with_torch() -> None:
    with torch.no_grad():
        expected = functional.scaled_dot_product_attention(*_inputs())
        with product_attention():
            assert torch.equal(functional.scaled_dot_product_attention(*_inputs()), expected)


def test_gradient_checkpointing_computes_the_same_again() -> None:
    def attend(*tensors: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(*tensors)

    with product_attention():
        expected = _gradients(_inputs())
        inputs = _inputs()
        out = checkpoint(attend, *inputs, use_reentrant=False)
        out.float().square().sum().backward()
    assert all(torch.equal(tensor.grad, found) for tensor, found in zip(inputs, expected[1:], strict=True))
