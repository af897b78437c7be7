"""Means over subjects, paired differences with intervals, exact sign-flip tests, Holm's correction. numpy
and scipy only.

The subject is the unit: images of one subject are averaged before anything here sees them (results.scores).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_EXACT_UP_TO = 20  # subjects: 2^20 sign patterns take about a second
_RESAMPLES = 9999
ENOUGH = 6  # subjects a verdict needs: with 5, no pattern of signs has a p-value of 5% or less
LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` subjects and its interval; the bounds are NaN for one subject."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Paired:
    """Difference a - b over subjects: Student's t interval, BCa interval, exact two-sided sign-flip
    p-value."""

    t: Interval
    bca: Interval
    p: float


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of (subjects,) values."""
    x = _finite(values)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), len(x))
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def bca_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), by scipy.

    Equal values give a point, as there is nothing to resample.
    """
    x = _finite(values)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), len(x))
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]), len(x))
    result = stats.bootstrap(
        (x,),
        np.mean,
        method="BCa",
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(x.mean()), float(low), float(high), len(x))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of the mean difference being 0 under random signs of each subject's difference.

    All 2^n patterns are enumerated up to 20 subjects; above, 99,999 are drawn and the observed one is
    counted too.
    """
    x = _finite(differences)
    n = len(x)
    if n <= _EXACT_UP_TO:
        # A pattern and its negation give the same |sum|, so the last sign may stay +.
        sums = np.array([x[-1]])
        for value in x[:-1]:
            sums = np.concatenate([sums + value, sums - value])
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        sums, extra = (rng.integers(0, 2, (99_999, n)) * 2 - 1) @ x, 1
    tolerance = 1e-12 * np.abs(x).sum()
    return float((np.count_nonzero(np.abs(sums) >= abs(x.sum()) - tolerance) + extra) / (len(sums) + extra))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(p) else p
    result = np.empty_like(p)
    result[order] = adjusted
    return result.tolist()


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """a - b for the same subjects in the same order."""
    difference = _finite(a) - _finite(b)
    return Paired(t_interval(difference), bca_interval(difference), sign_flip_p(difference))


def verdict(difference: Paired) -> str:
    """Return what the data say of the claim that the difference is positive.

    "too few subjects" for fewer than 6. "holds" if the t interval lies wholly above 0 and the sign-flip test rejects
    a difference of 0 at 5%; "does not" if the interval lies wholly below 0 and the test rejects; else "undecided".
    """
    if difference.t.n < ENOUGH:
        return "too few subjects"
    if difference.p > LEVEL or difference.t.low <= 0 <= difference.t.high:
        return "undecided"
    return "holds" if difference.t.low > 0 else "does not"


def _finite(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError("statistics need a non-empty, finite list with one value per subject")
    return x
