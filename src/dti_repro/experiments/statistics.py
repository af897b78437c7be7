"""Intervals of means over subjects, paired differences, exact sign-flip tests, Holm's correction and verdicts.

The subject is the unit: the images of one subject are averaged before anything here sees them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # of the tests; intervals cover the rest
BOOTSTRAPS = 9999
POWER = 0.8  # with which a smallest difference is found
SIGN_PATTERNS = 99_999  # all 2^n patterns are enumerated where there are no more, up to 16 subjects
MIN_SUBJECTS = 6  # that a verdict needs: with 5, no pattern of signs has a p-value of 5% or less


@dataclass(frozen=True)
class Interval:
    """A mean over `n` subjects and its 95% interval. The bounds are NaN for one subject."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def text(self) -> str:
        """The mean ± half of the interval as tables print it, "" of 0 subjects."""
        if self.n == 0:
            return ""
        return f"{self.mean:.3f}" + (f" ± {self.half_width:.3f}" if self.n > 1 else "")


@dataclass(frozen=True)
class Paired:
    """The difference a - b over subjects: Student's t interval, BCa interval, two-sided sign-flip p-value."""

    t: Interval
    bca: Interval
    p: float


def t_interval(values: Sequence[float]) -> Interval:
    """Return Student's t interval of the mean of (subjects,) values."""
    x = _finite(values)
    if len(x) < 2:
        return Interval(x.item(), np.nan, np.nan, 1)
    from scipy.special import stdtrit  # scipy.stats has the same function, and takes half a second to import

    half = stdtrit(len(x) - 1, 1 - LEVEL / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def bca_interval(values: Sequence[float]) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    Equal values give a point, because there is nothing to resample.
    """
    x = _finite(values)
    if np.ptp(x) == 0:
        return t_interval(x)
    from scipy import stats

    found = stats.bootstrap((x,), np.mean, n_resamples=BOOTSTRAPS, confidence_level=1 - LEVEL, method="BCa", rng=0)
    low, high = found.confidence_interval
    return Interval(float(x.mean()), float(low), float(high), len(x))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of a mean difference of 0 under random signs of each subject's difference.

    The test is exact up to 16 subjects. With more, 99,999 patterns are drawn and the observed one is counted too.
    """
    x = _finite(differences)
    if len(x) < 2:
        return 1.0
    from scipy import stats

    found = stats.permutation_test((x,), np.sum, permutation_type="samples", n_resamples=SIGN_PATTERNS, rng=0)
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) step-down adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted[order.argsort()].tolist()


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Return a - b for the same subjects in the same order."""
    difference = _finite(a) - _finite(b)
    return Paired(t_interval(difference), bca_interval(difference), sign_flip_p(difference))


def verdict(difference: Paired) -> str:
    """Return what the data say about the claim that the difference is positive.

    "too few subjects" for fewer than 6. "holds" if the t interval lies wholly above 0 and the sign-flip test rejects
    a difference of 0 at 5%; "does not" if the interval lies wholly below 0 and the test rejects; else "undecided".
    """
    if difference.t.n < MIN_SUBJECTS:
        return "too few subjects"
    if difference.p > LEVEL or difference.t.low <= 0 <= difference.t.high:
        return "undecided"
    return "holds" if difference.t.low > 0 else "does not"


def minimum_detectable_difference(values: Sequence[float]) -> float:
    """Return the minimum detectable difference: with probability POWER the two-sided t test at LEVEL finds a true mean
    difference of this size, on its own side, for as many subjects with this standard deviation. NaN for fewer than two,
    and where all subjects have the same difference.

    Its t follows the noncentral t distribution (Cohen 1988, ch. 2).
    """
    x = _finite(values)
    n = len(x)
    if n < 2 or np.ptp(x) == 0:
        return np.nan
    from scipy import optimize, stats

    limit = stats.t.ppf(1 - LEVEL / 2, n - 1)
    center = optimize.brentq(lambda center: stats.nct.sf(limit, n - 1, center) - POWER, 0, 3 * limit)
    return float(center * x.std(ddof=1) / np.sqrt(n))


def _finite(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError("statistics need a non-empty, finite list with one value per subject")
    return x
