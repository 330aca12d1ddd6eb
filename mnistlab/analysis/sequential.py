"""Evidence and verdicts that hold however often one looks: paired differences, tested after every pair.

Two gamblers start with 1 each. One bets that the next difference is positive, the other that it is negative, knowing
all earlier ones and how large the next one is. Where A and B do not differ, it falls on either side of 0 with the same
chance, so no bet pays on average, and the mean of the two wealths ever reaches 20 in at most 1 case in 20 (Ville's
inequality). Where it does, that is evidence: p = 1 / 20. docs/statistics.md explains each number and its check.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnistlab.errors import UserError

Array = NDArray[Any]  # float64 but for counts
ALPHA = 0.05
MAX_SEEDS = 64  # that a question is given, unasked

# What the gamblers expect, in standard deviations of a difference, and the weights; chosen by simulation: most where
# dozens of pairs can tell, the smallest size so that intervals shrink on over hundreds.
SIZES = np.array([0.2, 0.5, 1.0, 3.0])
SIZE_WEIGHTS = np.array([0.05, 0.47, 0.16, 0.32])
CLIP = 4.0  # medians of the magnitudes: one wild difference (a seed that all but diverged) must not set the scale
SIGN_SHARE, SIGN_STAKE = 0.1, 0.99  # of the wealth, bet on signs alone, for pairs that agree but are unlike in size
NUM_CENTRES, NUM_HALVINGS = 300, 9  # tried for a confidence sequence; of the cells at its ends
CHUNK, NUM_PATHS = 2**14, 200  # differences worked on at once (what the cache holds); continuations of a pilot


class Evidence(NamedTuple):
    """What is known after each pair, every field float64 [n]."""

    p: Array  # 1 / the largest e so far, at most 1: valid whenever one stops
    e: Array  # (wealth_up + wealth_down) / 2
    wealth_up: Array  # of the gambler who bets on positive differences; 1 before the first pair
    wealth_down: Array  # of the one who bets on negative differences


def sequential_evidence(differences: ArrayLike) -> Evidence:
    """Evidence after each pair against "the differences are symmetric about 0".

    Nine tenths of a wealth grow by 2 G(S_i) / (G(S_{i-1} + |d_i|) + G(S_{i-1} - |d_i|)), S the sum so far and G what a
    normal model makes of it, G(S) = sum_k w_k max_sigma prod_{j <= i} normal(d_j; ±SIZES_k sigma, sigma); the rest bets
    on signs. Given |d_i| and the past, both signs have chance 1/2 under the hypothesis, so the factor's mean is exactly
    1 whatever G is: normal differences are what the bets hope for, not what they assume. S and G clip differences at
    CLIP times the median magnitude so far. A 0 is passed over.
    Sources: Ramdas, Ruf, Larsson and Koolen 2020, arXiv:2009.03167 (bets on signs, knowing the magnitudes); Koning,
    arXiv:2310.01153, and Vovk and Wang 2024, arXiv:2208.08925 (likelihood ratios given the magnitudes).

    Args:
      differences: float [n], a_i - b_i in the order of the pairs, finite: leave out pairs in which a run diverged.

    >>> sequential_evidence([0.9, 1.2, 0.7, 1.1, 0.8, 1.0]).e.round(1).tolist()
    [1.0, 1.8, 3.4, 6.7, 13.2, 26.4]
    """
    log_up, log_down = _log_wealths(_vector(differences))
    log_e = np.logaddexp(log_up, log_down) - math.log(2)
    p = np.exp(-np.maximum.accumulate(np.maximum(log_e, 0)))
    with np.errstate(over="ignore"):  # 1,100 pairs that agree
        return Evidence(p, np.exp(log_e), np.exp(log_up), np.exp(log_down))


def sequential_p(differences: ArrayLike) -> Array:
    """Two-sided p after each pair, float64 [n], valid whenever one stops: P(it ever falls to alpha) <= alpha.

    Of "symmetric about 0", see `sequential_evidence`. Holm's adjustment of several such p holds whenever one stops too.

    >>> sequential_p(np.ones(6)).round(3).tolist()  # no test of six pairs can go below 2 / 2^6 = 0.031
    [1.0, 0.559, 0.29, 0.147, 0.074, 0.037]
    """
    return sequential_evidence(differences).p


def fewest_sequential_pairs(alpha: float = ALPHA) -> int:
    """The smallest n at which `sequential_p` reaches alpha where all differences are the same.

    >>> fewest_sequential_pairs(), fewest_sequential_pairs(0.05 / 6)
    (6, 9)
    """
    n = math.ceil(math.log2(1 / alpha)) + 1  # fewer cannot, whatever the bets: 2^(1 - n) > alpha
    while sequential_p(np.ones(n))[-1] > alpha:
        n += 1
    return n


def confidence_sequence(differences: ArrayLike, confidence: float = 0.95) -> tuple[Array, Array]:
    """Intervals of the centre of symmetry, one after each pair; with chance `confidence` all of them cover it at once.

    C_n = {c: `sequential_p` of d_1 - c, ..., d_n - c is above 1 - confidence}, which never grows. It may have gaps; the
    interval around it is returned, its ends rejected: low >= 0 or high <= 0 means `sequential_p` <= 1 - confidence, and
    the other way round but for a 0 in a gap. A piece of C_n apart from the rest that lies between two of the centres
    tried is missed, in about 1 of 1,000 intervals. Source: Waudby-Smith and Ramdas 2024, JRSS B 86:1, for means.

    Returns:
      low, high: float64 [n], -inf and inf while no centre can be rejected (below 6 pairs at 0.95). Where all were (the
      differences have no common centre), the interval stays around the one rejected last.

    Raises:
      UserError: a confidence that is no share between 0 and 1, or differences of a wrong shape or not finite.

    >>> confidence_sequence([0.9, 1.2, 0.7, 1.1, 0.8, 1.0, 0.9])[0].round(2).tolist()
    [-inf, -inf, -inf, -inf, -inf, 0.51, 0.65]
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}: give a share between 0 and 1")
    values, alpha = _vector(differences), 1 - confidence
    n = np.arange(1, len(values) + 1)
    if not len(values) or np.ptp(values) == 0:
        told = n >= fewest_sequential_pairs(alpha)
        return np.where(told, values, -math.inf), np.where(told, values, math.inf)
    centres = _candidates(values)
    survived = _num_survived(values, centres, alpha)
    survived[np.argmax(survived)] = len(values)  # never no centre at all
    left, end = survived[:, None] >= n, len(centres) - 1
    first, last = left.argmax(axis=0), end - left[::-1].argmax(axis=0)
    kept = centres[np.concatenate([first, last])]
    dropped = centres[np.concatenate([np.maximum(first - 1, 0), np.minimum(last + 1, end)])]
    for _ in range(NUM_HALVINGS):
        halves, which = np.unique((kept + dropped) / 2, return_inverse=True)
        half_left = _num_survived(values, halves, alpha)[which] >= np.tile(n, 2)
        kept, dropped = np.where(half_left, halves[which], kept), np.where(half_left, dropped, halves[which])
    low, high = np.split(dropped, 2)
    return np.where(first > 0, low, -math.inf), np.where(last < end, high, math.inf)


class Standing(NamedTuple):
    """Where a claim's questions stand after the last pair; each p is valid whenever one stops."""

    p_differs: float  # of "the centre is 0"
    p_within: float  # of "the centre is `margin` or more from 0": small where no difference matters
    p_beyond: float  # of "the centre is at most `margin` from 0": small where a difference matters
    positive: bool  # the gambler who bets on positive differences has won more, at best, than the other


def standing(differences: ArrayLike, margin: float) -> Standing:
    """The numbers behind a verdict. With several claims, replace each p by Holm's over all claims, kind by kind.

    Args:
      margin: the smallest difference that would matter, in the unit of `differences`; 0 (any) leaves p_within at 1.

    Raises:
      UserError: a margin that is negative or not finite, or differences of a wrong shape or not finite.
    """
    if not 0 <= margin < math.inf:
        raise UserError(f"margin is {margin}: give the smallest difference that would matter, 0 or more")
    values, evidence = _vector(differences), sequential_evidence(differences)
    if not len(values):
        return Standing(1.0, 1.0, 1.0, True)
    tried = np.concatenate([_candidates(values), np.linspace(-margin, margin, 33)])
    p_within = _worst_p(values, tried[np.abs(tried) >= margin]) if margin > 0 else 1.0
    p_beyond = _worst_p(values, tried[np.abs(tried) <= margin])
    positive = bool(np.max(evidence.wealth_up) >= np.max(evidence.wealth_down))
    return Standing(float(evidence.p[-1]), p_within, p_beyond, positive)


def verdict_of(standing: Standing, alpha: float = ALPHA, direction: str = ">") -> str:
    """The verdict on "A > B", "A < B", or "A = B" ("they do not differ by as much as would matter").

    `no difference that matters` comes before `holds` and `reversed`: an interval of 0.0001 to 0.0004 leaves 0 out, but
    is no win to those who said beforehand that 0.002 would matter. No p ever grows, so more pairs can only settle what
    is `not resolved`, or turn `holds` and `reversed` into `no difference that matters`. "=" is `reversed` only where
    the difference is beyond the margin: one within it contradicts nothing.

    Raises:
      UserError: another direction.

    >>> verdict_of(standing([0.001, -0.002, 0.0, 0.001, -0.001, 0.002, -0.001, 0.001, -0.002, 0.001], margin=0.01))
    'no difference that matters'
    """
    if direction not in (">", "<", "="):
        raise UserError(f'direction is {direction!r}: a claim is ">", "<" or "="')
    if standing.p_within <= alpha:
        return "holds" if direction == "=" else "no difference that matters"
    if direction == "=":
        return "reversed" if standing.p_beyond <= alpha else "not resolved"
    side = "holds" if standing.positive == (direction == ">") else "reversed"
    return side if standing.p_differs <= alpha else "not resolved"


class PairsNeeded(NamedTuple):
    """Pairs until a claim is answered, those of the pilot among them, in simulated continuations of it."""

    median: int
    most: int  # enough in 80 of 100; max_pairs where more would be needed
    share: float  # answered by max_pairs


def expected_num_pairs(
    pilot: ArrayLike, margin: float, alpha: float = ALPHA, max_pairs: int = 64, direction: str = ">", seed: int = 0
) -> PairsNeeded:
    """How many pairs a claim will probably take, as `verdict_of` answers one that stands alone.

    New differences are mean ± (d_j - mean) + noise: a smoothed bootstrap, made symmetric, with the pilot's mean and
    variance. It takes the pilot's mean for the truth: a plan and no promise, and the less of one the smaller the pilot.

    Args:
      pilot: differences so far, float [n], n >= 2; every continuation starts with them.

    Raises:
      UserError: a pilot of fewer than 2 pairs, or one that `standing` would refuse.

    >>> expected_num_pairs([0.9, -0.2, 0.7, 1.4], margin=0.1)
    PairsNeeded(median=12, most=16, share=1.0)
    """
    values, rng = _vector(pilot), np.random.default_rng(seed)
    if len(values) < 2:
        raise UserError("the pilot has fewer than 2 pairs: their spread cannot be told")
    mean, spread, shape = values.mean(), np.std(values), (NUM_PATHS, max(max_pairs - len(values), 0))
    bandwidth = spread * len(values) ** -0.2
    noisy = (rng.choice(values, shape) - mean) * rng.choice([-1.0, 1.0], shape) + rng.normal(0, bandwidth, shape)
    noisy *= np.std(values, ddof=1) / (math.hypot(spread, bandwidth) or 1.0)
    paths = np.concatenate([np.broadcast_to(values, (NUM_PATHS, len(values))), mean + noisy], axis=1)[:, :max_pairs]
    questions = [np.linspace(-margin, margin, 5) if direction == "=" else np.zeros(1)]
    questions += [np.array([-margin, margin])] if margin > 0 else []
    log_e = [np.min([_largest_log_e(paths - centre) for centre in centres], axis=0) for centres in questions]
    answered = np.max(log_e, axis=0) >= -math.log(alpha)  # of one question, every centre is rejected
    took = np.where(answered[:, -1], answered.argmax(axis=1) + 1, max_pairs)
    median, most = np.quantile(took, [0.5, 0.8], method="higher").tolist()
    return PairsNeeded(median, most, float(np.mean(answered[:, -1])))


def _log_wealths(values: Array) -> tuple[Array, Array]:
    """log of the wealths on positive and on negative differences after each pair, both [..., n] as `values`."""
    # A common factor changes no bet; with this one, squares neither overflow nor vanish.
    values = values / np.maximum(np.max(np.abs(values), axis=-1, keepdims=True, initial=0), 1e-300)
    # What is nothing but rounding (0.9878 - 0.9876 - 0.0002) is 0: its sign is no coin.
    signs = np.sign(values) * (np.abs(values) > 1e-9 * np.maximum.accumulate(np.abs(values), axis=-1))
    count = np.cumsum(signs != 0, axis=-1)
    last, total, root = _clipped_sums(signs * np.abs(values))
    seens, unseens = (_log_likelihoods(np.maximum(count, 1), signed / root) for signed in (total, total - 2 * last))
    wealths = []
    for seen, unseen, lead in zip(seens, unseens, (np.cumsum(signs, -1), -np.cumsum(signs, -1)), strict=True):
        by_size = np.cumsum(np.where(signs != 0, math.log(2) - np.logaddexp(0, unseen - seen), 0), axis=-1)
        by_sign = (count + lead) / 2 * math.log1p(SIGN_STAKE) + (count - lead) / 2 * math.log1p(-SIGN_STAKE)
        wealths.append(np.logaddexp(by_size + math.log(1 - SIGN_SHARE), by_sign + math.log(SIGN_SHARE)))
    return wealths[0], wealths[1]


def _clipped_sums(values: Array) -> tuple[Array, Array, Array]:
    """After each pair, all clipped by what was known then: its own value, the sum, the root of the sum of squares."""
    (last, total, root), start = np.empty((3, *values.shape)), 0
    while start < values.shape[-1]:  # a new median at every pair of the first 16, then at each sixteenth more
        new = slice(start, start + 1 + start // 16)
        known = np.abs(values[..., : start + 1])
        known = np.sort(np.where(known == 0, math.inf, known), axis=-1)
        clip = CLIP * np.take_along_axis(known, np.sum(known < math.inf, axis=-1, keepdims=True) // 2, axis=-1)
        clipped = np.clip(values[..., : new.stop], -clip, clip)
        last[..., new], total[..., new] = clipped[..., new], np.cumsum(clipped, axis=-1)[..., new]
        root[..., new] = np.sqrt(np.maximum(np.cumsum(clipped**2, axis=-1)[..., new], 1e-300))
        start = new.stop
    return last, total, root


def _log_likelihoods(count: Array, t: Array) -> tuple[Array, Array]:
    """log G of t = S / sqrt(Q), Q the sum of `count` squares: for sizes above 0, and for sizes below; [...] as `t`.

    With y = sqrt(Q) / sigma, one size's log likelihood is count log y - y^2 / 2 + size t y - count size^2 / 2 and a
    constant. It is largest where y^2 - size t y - count = 0; for -size, at count / y.
    """
    sizes = SIZES.reshape(-1, *[1] * t.ndim)
    x = sizes * t
    y = (x + np.sqrt(x * x + 4 * count)) / 2
    log_y, y_below = np.log(y), count / y
    above = count * (log_y - sizes**2 / 2) + y * (x - y / 2)
    below = count * (np.log(count) - log_y - sizes**2 / 2) - y_below * (x + y_below / 2)
    return _log_mean(above, SIZE_WEIGHTS), _log_mean(below, SIZE_WEIGHTS)


def _log_mean(logs: Array, weights: Array) -> Array:
    largest = np.max(logs, axis=0)
    return largest + np.log(np.tensordot(weights, np.exp(logs - largest), 1))


def _largest_log_e(values: Array) -> Array:
    return np.maximum.accumulate(np.logaddexp(*_log_wealths(values)) - math.log(2), axis=-1)


def _worst_p(values: Array, centres: Array) -> float:
    return min(1.0, math.exp(-np.min(_largest_log_e(values - centres[:, None])[:, -1])))


def _candidates(values: Array) -> Array:
    """Centres to try, rising: the nearer to the median, the closer; and 0."""
    middle = np.median(values)
    spread = np.ptp(values) or abs(middle) or 1.0
    finest = 0.05 * (np.mean(np.abs(values - middle)) or spread)
    steps = np.linspace(-1, 1, NUM_CENTRES) * np.arcsinh(50 * spread / finest)  # out to 50 ranges of the data
    ordered, rounding = np.sort(values), 1e-9 * np.ptp(values)
    some = ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), 128)).astype(int)]
    beside = [some - 100 * rounding, some + 100 * rounding]  # a sign changes there, and pieces of the set begin
    ties = ordered[1:][np.diff(ordered) <= rounding]  # one of them may be the only centre left
    return np.unique(np.concatenate([middle + finest * np.sinh(steps), *beside, ties, [0.0]]))


def _num_survived(values: Array, centres: Array, alpha: float) -> Array:
    """int64 [centres], after how many pairs each was last not rejected."""
    some = np.array_split(centres[:, None], math.ceil(len(centres) * len(values) / CHUNK))
    return np.sum(np.concatenate([_largest_log_e(values - part) for part in some]) < -math.log(alpha), axis=1)


def _vector(values: ArrayLike) -> Array:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not np.all(np.isfinite(vector)):
        raise UserError("differences are one finite number a pair: leave out the pairs in which a run diverged")
    return vector
