"""The table's intervals and p-values are the textbook's: closed forms, scipy's tests, every pattern of signs."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dti_repro.experiments.statistics import (
    Interval,
    Paired,
    bca_interval,
    holm,
    paired,
    sign_flip_p,
    t_interval,
    verdict,
)


def test_t_interval_is_scipys() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 12)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    interval = t_interval(x)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.half_width == pytest.approx((expected.high - expected.low) / 2)


def test_bca_interval_is_near_the_normal_one_for_normal_data_and_skewed_for_skewed_data() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=200)
    normal = stats.norm.interval(0.95, x.mean(), x.std(ddof=1) / np.sqrt(len(x)))
    assert (bca_interval(x).low, bca_interval(x).high) == pytest.approx(normal, abs=0.02)
    skewed = bca_interval(rng.exponential(size=20))
    assert skewed.high - skewed.mean > skewed.mean - skewed.low
    assert bca_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_sign_flip_p_counts_every_pattern(n: int) -> None:
    x = np.random.default_rng(n).normal(0.5, 1, n)
    sums = [abs(np.dot(signs, x)) for signs in itertools.product([1, -1], repeat=n)]
    assert sign_flip_p(x) == pytest.approx(np.mean(np.array(sums) >= abs(x.sum()) - 1e-12))


def test_sign_flip_p_has_a_floor_of_two_patterns_and_counts_ties() -> None:
    assert sign_flip_p(np.ones(12)) == 2 / 2**12  # twelve subjects that all agree
    assert sign_flip_p([0.3, 0.1, 0.1, -0.1]) == pytest.approx(8 / 16)
    assert sign_flip_p(np.zeros(12)) == 1


def test_sign_flip_p_of_many_subjects_is_close_to_the_t_test() -> None:
    x = np.random.default_rng(3).normal(0.3, 1, 40)
    assert sign_flip_p(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_verdict_needs_six_subjects_and_both_tests() -> None:
    def of(low: float, high: float, p: float, n: int = 6) -> str:
        interval = Interval((low + high) / 2, low, high, n)
        return verdict(Paired(interval, interval, p))

    assert of(0.1, 0.3, 0.03) == "holds"
    assert of(-0.3, -0.1, 0.05) == "does not"
    assert of(-0.1, 0.5, 0.03) == "undecided"
    assert of(0.1, 0.3, 0.06) == "undecided"
    assert of(0.1, 0.3, 0.03, n=5) == "too few subjects"
    two = paired([0.5, 0.501], [0.1, 0.1])  # the interval alone would decide
    assert two.t.low > 0
    assert (two.p, verdict(two)) == (0.5, "too few subjects")
    assert verdict(paired([0.3], [0.1])) == "too few subjects"


def test_pairing_uses_differences_within_subjects() -> None:
    subjects = np.random.default_rng(4).normal(0, 10, 12)  # subjects differ far more than methods do
    result = paired(subjects + 0.1 + np.linspace(-0.01, 0.01, 12), subjects)
    assert result.t.low > 0 < result.bca.low
    assert result.t.mean == pytest.approx(0.1)


def test_a_missing_subject_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="finite"):
        paired([0.1, float("nan")], [0.1, 0.2])
