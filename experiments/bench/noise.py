"""How far rounds disagree, and which ratios may therefore be said."""

import numpy as np

MOST_NOISE = 0.15  # of the rounds' spread: above it, no ratio
NOISY = "noisy"  # what stands in its place


def spread(values: np.ndarray) -> float:
    """(third quartile - first quartile) / median of float64 [rounds]; NaN for one round, which says nothing of it.

    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, 50.0])), spread(np.array([1.0]))
    (0.6666666666666666, nan)
    """
    if len(values) < 2:
        return float("nan")
    first, median, third = np.percentile(values, (25, 50, 75))
    return float((third - first) / median)


def ratio(ours: np.ndarray, other: np.ndarray, product: np.ndarray, most: float) -> float | None:
    """Median of `ours` over the median of `other`, float64 [rounds] each; None where the machine was too noisy.

    product: seconds of the calibrating product beside the rounds, by which a change of the whole machine shows.
    """
    if not all(spread(values) <= most for values in (ours, other, product)):  # or one is too short to say
        return None
    return float(np.median(ours) / np.median(other))
