"""How small a difference n pairs resolve, and how many pairs a difference takes: the power of the paired t test."""

import functools
import math

import numpy as np
from numpy.typing import ArrayLike

from mnistlab.analysis.sequential import ALPHA
from mnistlab.errors import UserError

# scipy is imported inside the function that uses it: it would double the time that this module takes to import.


def smallest_resolvable_difference(differences: ArrayLike, alpha: float = ALPHA, power: float = 0.8) -> float:
    """The true mean difference that a paired t test of n pairs with this sd finds significant with probability `power`.

    Args:
      differences: float [n], a_i - b_i: their sd and their number count, their mean does not. n < 2 gives nan.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2:
        return math.nan
    return _standardised_difference(len(differences), alpha, power) * float(np.std(differences, ddof=1))


def num_pairs_needed(sd_difference: float, difference: float, alpha: float = ALPHA, power: float = 0.8) -> int:
    """The smallest n with which a paired t test finds a true mean `difference` significant with probability `power`.

    Args:
      sd_difference: standard deviation of a_i - b_i, unit as `difference`; sqrt(2) sd where pairs do not correlate.

    Raises:
      UserError: `difference` is 0 or next to nothing beside the sd (no n is enough), or a number that makes no sense.

    >>> num_pairs_needed(sd_difference=1.0, difference=0.5)
    34
    """
    if not (math.isfinite(difference) and difference != 0 and 0 <= sd_difference < math.inf):
        raise UserError(
            f"difference {difference}, sd_difference {sd_difference}: give a difference other than 0 and an sd >= 0"
        )
    effect = standardised(difference, sd_difference)
    if effect == 0:
        raise UserError(f"difference {difference} is nothing beside an sd of {sd_difference}: no n is enough")
    if effect < 1e-4:  # of so many pairs t is normal, and the noncentral t can no longer be computed
        from scipy import special

        z_alpha, z_power = (float(special.ndtri(p)) for p in (1 - alpha / 2, power))
        return math.ceil(((z_alpha + z_power) / effect) ** 2 + z_alpha**2 / 2)
    if effect > 1e4:  # beyond what two pairs resolve at any usual alpha, and what the noncentral t can be computed for
        return 2
    high = 2
    while _t_test_power(high, effect, alpha) < power:
        high *= 2
    low = high // 2  # too few, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _t_test_power(middle, effect, alpha) >= power else (middle, high)
    return high


def standardised(difference: float, sd_difference: float) -> float:
    """|difference| in standard deviations; 0 below 1e-12, where it is as likely the rounding of their mean.

    >>> standardised(-0.5, 2.0), standardised(1e-17, 0.01), standardised(1.0, 0.0)
    (0.25, 0.0, inf)
    """
    effect = abs(difference) / sd_difference if sd_difference > 0 else math.inf * abs(difference)
    return effect if effect >= 1e-12 else 0.0


def _t_test_power(n: int, effect: float, alpha: float) -> float:
    """Power of the two-sided paired t test of n pairs at a true difference of `effect` standard deviations."""
    from scipy import special

    critical = float(special.stdtrit(n - 1, 1 - alpha / 2))
    shift = effect * math.sqrt(n)
    wrong_side = float(special.nctdtr(n - 1, shift, -critical))  # nan where it underflows
    return 1 - float(special.nctdtr(n - 1, shift, critical)) + (0.0 if math.isnan(wrong_side) else wrong_side)


@functools.lru_cache(maxsize=1024)
def _standardised_difference(n: int, alpha: float, power: float) -> float:
    """The effect, in standard deviations, at which `_t_test_power` is `power`, by bisection."""
    low, high = 0.0, 1.0
    while _t_test_power(n, high, alpha) < power:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _t_test_power(n, middle, alpha) >= power else (middle, high)
    return high
