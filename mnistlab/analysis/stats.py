"""Paired differences, their intervals and tests, and the verdict on a claim.

A claim "A > B" is asked of n pairs (same seed, same data order, same split in A and B). `compare` measures it, `judge`
corrects for the number of claims that an experiment makes and gives the verdict, `sentence` says it in words. Verdicts
and their intervals hold however often one looks (`sequential`); the other numbers are valid for one look.

>>> claims = [compare([0.987, 0.985, 0.988, 0.986, 0.989, 0.987], [0.978, 0.979, 0.977, 0.978, 0.980, 0.976])]
>>> judge(claims)[0].verdict
'holds'
"""

import dataclasses
import html
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnistlab.analysis.power import smallest_resolvable_difference
from mnistlab.analysis.sequential import ALPHA, Standing, confidence_sequence, sequential_p, standing, verdict_of
from mnistlab.errors import UserError

# scipy is imported inside the functions that use it: it would double the time that this module takes to import.

LARGEST = 1e100  # far beyond float32, and its cube is still a number: no result that is read may be larger


class Interval(NamedTuple):
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)

ROUNDING = 2.0**-23  # of a float32
PULLED = "a few pairs are far from the others and pull the mean out of the interval"
_beyond_floats = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""Where sums of numbers near 1e308 become infinite, which is looked for afterwards."""


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval of a mean (or of paired differences): mean ± t_{(1 + confidence) / 2, n - 1} sd / sqrt(n).

    Args:
      values: float [n], one number a run. One value, or a value that is not finite, gives (nan, nan).
      confidence: how often the interval covers the mean, in (0, 1).

    >>> low, high = mean_interval([0.985, 0.987, 0.986, 0.988])
    >>> f"{low:.4f} {high:.4f}"
    '0.9844 0.9886'
    """
    values = _vector(values)
    return _student_interval(values, confidence, math.sqrt(1 / max(len(values), 1)))


def prediction_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Where one more run would fall: mean ± t_{(1 + confidence) / 2, n - 1} sd sqrt(1 + 1 / n).

    Args:
      values: float [n], one number a run, roughly normal. One value, or a value that is not finite, gives (nan, nan).
    """
    values = _vector(values)
    return _student_interval(values, confidence, math.sqrt(1 + 1 / max(len(values), 1)))


def inside(values: ArrayLike, reported: float) -> bool | None:
    """Whether one reported number could be one more of our runs: it lies in their 95 % prediction interval.

    A source's single run must not be compared with the interval of our mean, which shrinks to nothing as n grows.

    Args:
      values: float [n], one number a run.
      reported: the source's single number.

    Returns:
      None where it cannot be said: fewer than two runs, or a run that is not finite.

    >>> inside([0.985, 0.987, 0.986, 0.988], 0.9835)
    True
    """
    low, high = prediction_interval(values)
    return None if math.isnan(low) else low <= reported <= high


@_beyond_floats
def bca_interval(
    values: ArrayLike, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0, *, expand: bool = True
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of a mean (Efron 1987, JASA 82:171).

    Plain BCa is too short when n is small: of 5,000 simulated normal samples its 95 % interval covered the mean in 87 %
    at n = 8 and 91 % at n = 16. With `expand`, t_{n-1} sqrt(n / (n - 1)) takes the place of the normal quantile z that
    BCa starts from (Hesterberg 2015, The American Statistician 69:371), which is z again as n grows: 93 % and 94 %. For
    exponential samples (2,000) that is 91 % and 92 %, plain 85 % and 89 %, Student's interval 90 % and 91 %.

    Args:
      values: float [n], one number per run or pair. One value, a value that is not finite, or numbers whose cubes no
        float can hold give (nan, nan).
      expand: False gives the interval of scipy.stats.bootstrap.

    Returns:
      The interval; of no width when every resample gives the same number.
    """
    from scipy import special

    values = _vector(values)
    n = len(values)
    if n < 2 or not np.all(np.isfinite(values)):
        return UNKNOWN
    observed = np.mean(values)
    resampled = _resampled_means(values, num_resamples, seed)

    below = (np.mean(resampled < observed) + np.mean(resampled <= observed)) / 2
    bias = special.ndtri(np.clip(below, 0.5 / num_resamples, 1 - 0.5 / num_resamples))
    away = values - observed  # as the mean without a value is away from that of all, but for a factor
    spread = np.sum(away**2) ** 1.5
    acceleration = np.sum(away**3) / (6 * spread) if spread > 0 else 0.0
    if not (np.all(np.isfinite(resampled)) and math.isfinite(acceleration)):
        return UNKNOWN

    tail = (1 - confidence) / 2
    z = math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, tail) if expand else special.ndtri(tail)
    shifted = bias + np.array([z, -z])
    low, high = np.quantile(resampled, special.ndtr(bias + shifted / (1 - acceleration * shifted)))
    return Interval(float(low), float(high))


def sd_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of a standard deviation: sd sqrt((n - 1) / q), q the chi-square quantiles with n - 1 degrees of freedom.

    Args:
      values: float [n], one number a run, roughly normal: unlike the interval of a mean, this one does not become right
        with n where they are not. One value, or a value that is not finite, gives (nan, nan).

    >>> low, high = sd_interval([0.985, 0.987, 0.986, 0.988])  # their sd is 0.0013
    >>> f"{low:.4f} {high:.4f}"
    '0.0007 0.0048'
    """
    from scipy import special

    values = _vector(values)
    n = len(values)
    if n < 2 or not np.all(np.isfinite(values)):
        return UNKNOWN
    tail = (1 - confidence) / 2
    low, high = (_sd(values) * math.sqrt((n - 1) / float(special.chdtri(n - 1, upper))) for upper in (tail, 1 - tail))
    return Interval(low, high) if math.isfinite(high) else UNKNOWN


# Tests


def sign_flip_p(differences: ArrayLike, max_exact: int = 20, num_draws: int = 100_000, seed: int = 0) -> float:
    """Two-sided p of "differences are symmetric about 0": the share of sign patterns s with |sum s_i d_i| >= |sum d_i|.

    Exact over all 2^n patterns while n <= `max_exact`; else (1 + hits) / (1 + `num_draws`) of random patterns. Zero
    differences are left out: their sign changes no sum, so they change no p.

    Args:
      differences: float [n], a_i - b_i. No difference but zero gives 1; a value that is not finite gives nan.

    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # 2 / 2^6
    0.03125
    """
    flipped = _vector(differences)
    if not np.all(np.isfinite(flipped)):
        return math.nan
    flipped = flipped[flipped != 0]
    n = len(flipped)
    if n == 0:
        return 1.0
    if np.max(np.abs(flipped)) > 1e300:  # their sum may be more than a float can hold; no scale changes p
        flipped = flipped / 2.0**100
    # Sums that are equal on paper differ by rounding; they count as equal.
    threshold = abs(np.sum(flipped)) - 1e-9 * np.sum(np.abs(flipped))
    if n <= max_exact:
        sums = flipped[:1]  # the first sign stays: a pattern and its mirror have the same |sum|
        for difference in flipped[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(seed)
    num_hits = 0
    for num_rows in _chunks(num_draws, n):
        signs = 2.0 * rng.integers(0, 2, (num_rows, n), dtype=np.int8) - 1.0
        num_hits += int(np.sum(np.abs(signs @ flipped) >= threshold))
    return (1 + num_hits) / (1 + num_draws)


def fewest_pairs(alpha: float = ALPHA) -> int:
    """The smallest n at which the sign-flip test can reach p < alpha: all pairs agree and 2^(1 - n) < alpha.

    >>> fewest_pairs(), fewest_pairs(0.05 / 6)
    (6, 8)
    """
    n = 2
    while 2.0 ** (1 - n) >= alpha:
        n += 1
    return n


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment: the chance of any false claim among all stays below alpha where adjusted p < alpha.

    For p_(1) <= ... <= p_(m): p_(k) becomes max over j <= k of min(1, (m - j + 1) p_(j)).
    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.

    Args:
      p_values: float [m] in any order.

    Returns:
      float64 [m], in the same order.

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _vector(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


@_beyond_floats
def probability_better(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> tuple[float, Interval]:
    """P(A > B) in a pair: the share of pairs with a_i > b_i, a tie counting one half, and its Wilson score interval.

    Only pairs are compared: never a_i with b_j, since A and B share seed i. Wilson's interval (1927, JASA 22:209) takes
    the place of the percentile bootstrap, which says [1, 1] where A wins all of 6 pairs (Wilson: [0.61, 1]) and at a
    true P of 0.9, n = 16, covered it in 80 % of 2,000 simulated samples (Wilson: 94 %).

    Args:
      a, b: float [n], paired and finite; n = 0 gives nan.

    >>> p, (low, high) = probability_better([3, 4, 5, 6], [1, 2, 3, 6])
    >>> f"{p} in {low:.2f} .. {high:.2f}"
    '0.875 in 0.40 .. 0.99'
    """
    from scipy import special

    differences = paired_differences(_vector(a), _vector(b))
    n = len(differences)
    if n == 0 or np.any(np.isnan(differences)):
        return math.nan, UNKNOWN
    p = float(np.mean((np.sign(differences) + 1) / 2))
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return p, Interval(max(0.0, centre - half), min(1.0, centre + half))


# Claims


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What n pairs say on one claim; `judge` fills `p_holm` and `verdict`.

    A pair in which a side is not finite (the run diverged) enters no number but the counts of failures.
    """

    direction: str  # the claim: ">" for A > B, "<" for A < B, "=" for a difference of less than `margin`
    margin: float  # the smallest difference that would matter; 0: any would
    n: int  # pairs with both sides finite
    num_failed: int  # pairs left out because a side diverged
    num_failed_a: int
    num_failed_b: int
    mean_a: float
    sd_a: float
    mean_b: float
    sd_b: float
    difference: float  # mean of a_i - b_i, whatever the direction
    interval: Interval  # 95 % confidence sequence of the difference: holds however often one looks
    standing: Standing  # the p of each answer, valid whenever one stops
    t_interval: Interval  # 95 %, of the difference
    bca_interval: Interval  # 95 %, of the difference, expanded for small n
    p: float  # sign-flip, two-sided, valid for one look
    probability: float  # that the claim is true of one pair: P(A < B) where that is the claim, else P(A > B)
    probability_interval: Interval
    correlation: float  # of a_i and b_i; nan where a side does not vary. Near 0, pairing bought nothing
    smallest_resolvable: float  # difference found with power 0.8 at alpha 0.05 with this n, before Holm
    p_holm: float = math.nan  # of the answer's question (`standing`), after Holm
    verdict: str = "not judged"

    @property
    def outcome(self) -> str:
        """The verdict without its remarks: holds, reversed, no difference that matters, not resolved or not judged."""
        return self.verdict.split(" (")[0]

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain JSON values: intervals as [low, high], None for a number that is not finite."""
        record = dataclasses.asdict(self) | {"standing": self.standing._asdict()}
        return {key: _plain(value) for key, value in record.items()}

    def _repr_html_(self) -> str:
        """For a notebook: the sentence to quote."""
        return f"<p>{html.escape(sentence(self, 'A', 'B', 'what was measured'))}</p>"


@_beyond_floats
def compare(
    a: ArrayLike, b: ArrayLike, *, direction: str = ">", margin: float = 0.0, num_resamples: int = 10_000
) -> Comparison:
    """Measures "A > B", "A < B" or "A = B" on paired runs; pass it to `judge` with the experiment's other claims.

    Args:
      a, b: float [n], a_i and b_i from the same seed; nan or inf where the run diverged.
      direction: ">", "<" or "=", what is claimed; "=" says that they do not differ by `margin`.
      margin: the smallest difference that would matter, said beforehand; at 0 nothing can be too small to matter.
      num_resamples: of the BCa bootstrap.

    B may be one number, repeated. The sign-flip p then takes A to be symmetric about its mean, which differences of
    like nets are and accuracies of one net only roughly: of exponential values, far more skewed, 6 to 8 in 100 true
    numbers were rejected (n = 6 to 16; 2,000 simulated samples each), not 5.

    Raises:
      UserError: other direction, or arrays that do not pair.
    """
    if direction not in (">", "<", "="):
        raise UserError(
            f'direction is {direction!r}: a claim is ">", "<" or "=" (for "like a reported number" use inside)'
        )
    a, b = _vector(a), _vector(b)
    if len(a) != len(b):
        raise UserError(
            f"{len(a)} runs of A and {len(b)} of B do not pair: give one of each per seed, nan where a run diverged"
        )
    failed_a, failed_b = ~np.isfinite(a), ~np.isfinite(b)
    failed = failed_a | failed_b
    a, b = a[~failed], b[~failed]
    differences = paired_differences(a, b)
    mean_a, mean_b, difference = _mean(a), _mean(b), _mean(differences)
    if abs(difference) <= ROUNDING * max(abs(mean_a), abs(mean_b)):
        difference = 0.0
    probability, probability_interval = probability_better(b, a) if direction == "<" else probability_better(a, b)
    bounded = differences if np.all(np.isfinite(differences)) else differences[:0]  # of numbers near 1e308
    interval = Interval(*(float(ends[-1]) for ends in confidence_sequence(bounded))) if len(bounded) else UNKNOWN
    return Comparison(
        direction=direction,
        margin=margin,
        n=len(differences),
        num_failed=int(failed.sum()),
        num_failed_a=int(failed_a.sum()),
        num_failed_b=int(failed_b.sum()),
        mean_a=mean_a,
        sd_a=_sd(a),
        mean_b=mean_b,
        sd_b=_sd(b),
        difference=difference,
        interval=interval,
        standing=standing(bounded, margin),
        t_interval=mean_interval(differences),
        bca_interval=bca_interval(differences, num_resamples=num_resamples),
        p=sign_flip_p(differences),
        probability=probability,
        probability_interval=probability_interval,
        correlation=_correlation(a, b),
        smallest_resolvable=smallest_resolvable_difference(differences),
    )


@_beyond_floats
def paired_differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a - b, float64 [n]; 0 where they are the same number to float32, in which runs are measured."""
    return np.where(np.abs(a - b) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)), 0.0, a - b)


def judge(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with `p_holm` and `verdict`; give all the claims of an experiment at once.

    `holds`, `reversed`: they differ, in the claimed or the other direction. `no difference that matters`: by less than
    the margin, which is what "=" claims; beyond it "=" is `reversed`. Each p is valid whenever one stops, and must be
    0.05 or below by Holm's adjustment over all claims: once for a difference ("=": one that matters), once for none.
    Else `not resolved`. Remarks in brackets: `(n too small)` where n pairs that all agree could not have passed Holm;
    that the mean lies outside the interval, which is of the centre of most pairs; who diverged how often.
    """
    if not comparisons:
        return []
    is_equal = np.array([comparison.direction == "=" for comparison in comparisons])
    differs, within, beyond, _ = map(np.array, zip(*(comparison.standing for comparison in comparisons), strict=True))
    of_difference = np.where(is_equal, beyond, differs)
    against, alike = holm(of_difference), holm(within)
    judged = []
    for index, comparison in enumerate(comparisons):
        p_against, p_alike = float(against[index]), float(alike[index])
        after_holm = Standing(p_against, p_alike, p_against, comparison.standing.positive)
        outcome = verdict_of(after_holm, ALPHA, comparison.direction)
        too_small = outcome == "not resolved" and _too_small(of_difference, index, comparison.n)
        p, verdict = p_alike if p_alike <= ALPHA else p_against, _remarked(outcome, comparison, too_small)
        judged.append(dataclasses.replace(comparison, p_holm=p, verdict=verdict))
    return judged


def sentence(comparison: Comparison, name_a: str, name_b: str, metric: str) -> str:
    """One sentence to quote: claim, verdict, difference with its 95 % interval, n, p, P.

    >>> loss = compare([0.31, 0.30, 0.33, 0.32, 0.30, 0.29], [0.36, 0.36, 0.37, 0.38, 0.35, 0.36], direction="<")
    >>> sentence(judge([loss])[0], "batchnorm", "baseline", "test loss")  # doctest: +NORMALIZE_WHITESPACE
    '"batchnorm < baseline" in test loss: holds; mean difference -0.055 (95 % interval -0.0746 to -0.0337,
    n = 6 pairs), p = 0.037 (Holm; valid whenever one stops), P(batchnorm < baseline) = 1.00.'
    """
    c = comparison
    text = f'"{name_a} {c.direction} {name_b}" in {metric}: {named(c.verdict, name_a, name_b)}'
    if c.n == 0:
        return text + "."
    low, high = c.interval
    pairs = f"n = {c.n} pair{'s' * (c.n > 1)}"
    interval = f"95 % interval {low:+.3g} to {high:+.3g}, {pairs}" if math.isfinite(high - low) else pairs
    text += f"; mean difference {c.difference:+.3g} ({interval})"
    text += "" if math.isnan(c.p_holm) else f", p = {c.p_holm:.2g} (Holm; valid whenever one stops)"
    text += f"; less than {c.margin:g} would not matter" if c.margin else ""
    chance = ">" if c.direction == "=" else c.direction
    return f"{text}, P({name_a} {chance} {name_b}) = {c.probability:.2f}."


def named(verdict: str, name_a: str, name_b: str) -> str:
    """A verdict, its sides by their names."""
    names = {"A": name_a, "B": name_b}
    return re.sub(r"\b([AB]) diverged", lambda found: f"{names[found[1]]} diverged", verdict)


def _too_small(p: NDArray[np.float64], index: int, n: int) -> bool:
    """Whether this claim's n pairs could not have passed Holm beside the other p, had they all agreed."""
    best = p.copy()
    best[index] = sequential_p(np.ones(n))[-1] if n else 1.0
    return bool(holm(best)[index] > ALPHA)


def _remarked(outcome: str, comparison: Comparison, too_small: bool) -> str:
    remarks = ["n too small"] if too_small else []
    low, high = comparison.interval
    slack = 1e-9 * abs(comparison.difference)  # of rounding, where all pairs are alike
    if not low - slack <= comparison.difference <= high + slack and not math.isnan(low):
        remarks.append(PULLED)
    num_seeds = comparison.n + comparison.num_failed
    for name, num_failed in (("A", comparison.num_failed_a), ("B", comparison.num_failed_b)):
        if num_failed:
            remarks.append(f"{name} diverged in {num_failed} of {num_seeds} seeds")
    return f"{outcome} ({'; '.join(remarks)})" if remarks else outcome


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Numbers


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise UserError(f"values have shape {vector.shape}: give one number a run, shape [n]")
    return vector


@_beyond_floats
def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@_beyond_floats
def _sd(values: NDArray[np.float64]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    correlation = float(np.corrcoef(a, b)[0, 1])
    return correlation if math.isfinite(correlation) else math.nan


def _student_interval(values: NDArray[np.float64], confidence: float, factor: float) -> Interval:
    from scipy import special

    n = len(values)
    if n < 2 or not np.all(np.isfinite(values)):
        return UNKNOWN
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * _sd(values) * factor
    return Interval(_mean(values) - half, _mean(values) + half) if math.isfinite(half) else UNKNOWN


def _resampled_means(values: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    rng, n = np.random.default_rng(seed), len(values)
    chunks = [values[rng.integers(0, n, (num_rows, n))].mean(-1) for num_rows in _chunks(num_resamples, n)]
    return np.concatenate(chunks)


def _chunks(num_rows: int, num_columns: int) -> list[int]:
    """Row counts that add up to `num_rows`, each with at most about a million elements: 1,000 pairs fit in memory."""
    size = max(1, 2**20 // num_columns)
    return [min(size, num_rows - start) for start in range(0, num_rows, size)]
