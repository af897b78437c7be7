"""Interpolation between vectors on and off the sphere. Rows are the last dimension; all is computed in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ANTIPODAL = 1e-4  # radians from pi below which the great circle between two directions is not defined well enough


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles (...), in radians, between the rows of a and b (..., dim), of any positive norm.

    2 atan2(|u - v|, |u + v|) for unit u, v (Kahan 2006): exact near 0 and near pi, where arccos of the
    inner product loses half of the digits.
    """
    u, v = _unit(a), _unit(b)
    return 2 * (u - v).norm(dim=-1).atan2((u + v).norm(dim=-1))


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the point at share t of the way from a to b (..., dim), in a's dtype: its direction moves along the great
    circle at constant angular speed (Shoemake 1985), its norm is linear between |a| and |b|.

    The two are kept apart as the DTI paper reads meaning from the direction alone. With equal norms this is the usual
    slerp. ValueError for a zero vector and for antipodal directions, between which all great circles are equally short.
    """
    omega = angle(a, b)[..., None]
    if bool((math.pi - omega < ANTIPODAL).any()):
        raise ValueError("the two directions are antipodal: there is no single shortest way between them")
    # sin(s omega) / sin(omega), written with sinc so that omega = 0 needs no case of its own
    scale = torch.sinc(omega / math.pi)
    share_a = (1 - t) * torch.sinc((1 - t) * omega / math.pi) / scale
    share_b = t * torch.sinc(t * omega / math.pi) / scale
    direction = share_a * _unit(a) + share_b * _unit(b)
    norm = (1 - t) * a.double().norm(dim=-1, keepdim=True) + t * b.double().norm(dim=-1, keepdim=True)
    return (norm * direction).to(a.dtype)


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return (1 - t) a + t b for (..., dim). Its norm sinks on the way, to zero halfway between opposite vectors."""
    return ((1 - t) * a.double() + t * b.double()).to(a.dtype)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.double()
    norm = rows.norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError("a zero vector has no direction")
    return rows / norm
