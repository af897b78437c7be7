"""Interpolation against closed forms."""

import math

import pytest
import torch

from dti_repro.optim.sphere import angle, lerp, slerp


def plane(theta: float, norm: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([[norm * math.cos(theta), norm * math.sin(theta), 0.0]], dtype=dtype)


@pytest.mark.parametrize("theta", [0.0, 1e-9, 0.3, math.pi / 2, 3.1])
@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_in_a_plane_is_the_angle_times_t(theta: float, t: float) -> None:
    torch.testing.assert_close(slerp(plane(0.0), plane(theta), t), plane(t * theta), atol=1e-12, rtol=0)


def test_unequal_norms_are_interpolated_linearly_whatever_the_direction_does() -> None:
    middle = slerp(plane(0.0, 2.0), plane(1.0, 6.0), 0.25)
    torch.testing.assert_close(middle, plane(0.25, 3.0), atol=1e-12, rtol=0)


def test_ends_are_the_inputs_in_float32() -> None:
    a, b = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(lerp(a, b, 0.5), (a + b) / 2)


def test_angle_keeps_its_digits_near_zero_and_pi() -> None:
    assert angle(plane(0.0), plane(1e-10)).item() == pytest.approx(1e-10, rel=1e-6)
    assert math.pi - angle(plane(0.0), plane(math.pi - 1e-10)).item() == pytest.approx(1e-10, rel=1e-5)


def test_no_answer_is_made_up_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="antipodal"):
        slerp(plane(0.0), plane(math.pi, 3.0), 0.5)
    with pytest.raises(ValueError, match="zero"):
        slerp(plane(0.0), torch.zeros(1, 3, dtype=torch.float64), 0.5)
