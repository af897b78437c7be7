"""The sphere's optimizers against geoopt's sphere, closed forms, finite differences and the paper's definition."""

from __future__ import annotations

import math

import geoopt
import pytest
import torch
from torch import Tensor

from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.optim.projected_adamw import ProjectedAdamW
from dti_repro.optim.spherical_sgd import SphericalSGD


def unit_rows(rows: int = 3, dim: int = 16, seed: int = 0) -> Tensor:
    drawn = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def gradients(steps: int, like: Tensor, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(like.shape, dtype=like.dtype, generator=random) * 10 ** (k % 7 - 4) for k in range(steps)]


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("tangent", [True, False])
def test_follows_the_definition_in_float64_over_many_steps(beta: float, tangent: bool) -> None:
    """Written once more with plain numbers, row by row, from the paper's equations."""
    lr, eps = 0.04, 1e-8
    v = torch.nn.Parameter(unit_rows())
    rows = [row.tolist() for row in v.data]
    squares = [0.0] * len(rows)
    optimizer = SphericalSGD([v], lr=lr, beta=beta, eps=eps, tangent=tangent)
    for n, gradient in enumerate(gradients(500, v.data), start=1):
        v.grad = gradient.clone()
        optimizer.step()
        for r, (row, g) in enumerate(zip(rows, gradient.tolist(), strict=True)):
            if tangent:
                along = math.fsum(a * b for a, b in zip(g, row, strict=True))
                g = [a - along * b for a, b in zip(g, row, strict=True)]
            square = math.fsum(a * a for a in g)
            squares[r] = beta * squares[r] + (1 - beta) * square
            size = math.sqrt(squares[r] / (1 - beta**n))
            moved = [a - lr * b / (size + eps) for a, b in zip(row, g, strict=True)]
            norm = math.sqrt(math.fsum(a * a for a in moved))
            rows[r] = [a / norm for a in moved]
    torch.testing.assert_close(v.data, torch.tensor(rows, dtype=torch.float64), atol=1e-12, rtol=0)


def test_one_step_is_geoopts_riemannian_step_with_a_unit_gradient() -> None:
    sphere, v0, gradient = geoopt.Sphere(), unit_rows(), gradients(1, unit_rows())[0]
    v = torch.nn.Parameter(v0.clone())
    v.grad = gradient
    SphericalSGD([v], lr=0.3, eps=1e-300).step()
    direction = sphere.egrad2rgrad(v0, gradient)
    direction = direction / sphere.norm(v0, direction, keepdim=True)
    torch.testing.assert_close(v.data, sphere.retr(v0, -0.3 * direction), atol=1e-14, rtol=0)
    # The retraction turns by arctan(lr), the exponential map by lr: the same direction, a slightly longer way.
    torch.testing.assert_close(sphere.dist(v0, v.data), torch.full((3,), math.atan(0.3), dtype=torch.float64))
    torch.testing.assert_close(sphere.expmap(v0, -math.atan(0.3) * direction), v.data, atol=1e-14, rtol=0)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_row_without_gradient_stays_to_the_bit(beta: float) -> None:
    v = torch.nn.Parameter(unit_rows().float())
    before = v.data.clone()
    optimizer = SphericalSGD([v], lr=0.1, beta=beta)
    for _ in range(3):
        v.grad = torch.zeros_like(v)
        v.grad[0, 0] = 1.0
        optimizer.step()
    assert torch.equal(v.data[1:], before[1:])
    assert not torch.equal(v.data[0], before[0])
    assert bool(torch.isfinite(v.data).all())


@pytest.mark.parametrize("optimizer", [SphericalSGD, ProjectedAdamW])
def test_rows_off_the_sphere_are_rejected(optimizer: type[torch.optim.Optimizer]) -> None:
    for rows in (2 * unit_rows(), torch.zeros(1, 4), torch.full((1, 4), math.nan), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="not on the unit sphere"):
            optimizer([torch.nn.Parameter(rows)], lr=0.1)


@pytest.mark.parametrize("setting", [{"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"beta": 1.0}, {"eps": 0.0}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    node = {"_target_": "dti_repro.optim.spherical_sgd.SphericalSGD", "lr": 0.1, **setting}
    with pytest.raises(InputError, match=f"optim.{next(iter(setting))} is"):
        build(node, SphericalSGD, "optim", params=[torch.nn.Parameter(unit_rows())])


def test_projected_adamw_is_adamw_then_the_nearest_point_of_the_sphere() -> None:
    v, free = torch.nn.Parameter(unit_rows()), torch.nn.Parameter(unit_rows())
    ours = ProjectedAdamW([v], lr=0.02, weight_decay=0.01)
    theirs = torch.optim.AdamW([free], lr=0.02, weight_decay=0.01)
    for gradient in gradients(20, v.data):
        v.grad, free.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
        free.data = geoopt.Sphere().projx(free.data)
    torch.testing.assert_close(v.data, free.data, atol=1e-14, rtol=0)


def test_adamw_that_normalises_at_the_end_is_adamw_until_it_is_saved() -> None:
    """And goes on from where it was, to the bit."""
    v, free = torch.nn.Parameter(unit_rows()), torch.nn.Parameter(unit_rows())
    ours = ProjectedAdamW([v], lr=0.02, weight_decay=0.01, normalise="at_end")
    theirs = torch.optim.AdamW([free], lr=0.02, weight_decay=0.01)
    for gradient in gradients(20, v.data):
        v.grad, free.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
        with ours.as_saved():
            torch.testing.assert_close(v.data, geoopt.Sphere().projx(free.data), atol=1e-14, rtol=0)
        assert torch.equal(v.data, free.data)
    assert (v.data.norm(dim=-1) - 1).abs().min() > 0.01
