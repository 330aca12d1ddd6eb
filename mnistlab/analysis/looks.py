"""What a claim said after each pair, whether it is answered, and how many more pairs it would probably take."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mnistlab.analysis import claims
from mnistlab.analysis.claims import Checked, Sides
from mnistlab.analysis.sequential import ALPHA, Array, confidence_sequence, expected_num_pairs, sequential_evidence
from mnistlab.analysis.stats import Comparison, paired_differences

FURTHEST = 256  # pairs that are looked ahead


class Question(NamedTuple):
    """Where a claim stands that seeds can answer."""

    id: str
    variants: tuple[str, ...]  # that it is about
    num_pairs: int  # so far, those in which a run diverged among them
    num_more: int  # that it will probably take: 0 where it is answered, as many again where so few show no spread
    evidence: str  # in words
    outlook: str = ""  # how many more pairs would probably answer it, in words


class Looks(NamedTuple):
    """A claim after each pair; evidence, low and high are float64 [n]."""

    evidence: Array  # of "they differ", the largest so far
    low: Array  # of the 95 % confidence sequence; -inf while nothing can be said
    high: Array
    decides: float  # the evidence that settles it where it is the strongest of all claims; nan: none settles it


def questions(checked: Sequence[Checked], sides: Sequence[Sides | None]) -> list[Question]:
    """Where every claim that was measured stands, by the verdict that the page shows.

    Args:
      sides: of each claim, as `claims.sides` gives them.
    """
    num_open = sum(_is_open(item.comparison) for item in checked if item.comparison)
    found = []
    for item, both in zip(checked, sides, strict=True):
        claim, comparison = item.claim, item.comparison
        if comparison is None or both is None or claims.is_of_the_clock(claim.metric):
            continue
        num_pairs, num_more, outlook = comparison.n + comparison.num_failed, 0, ""
        if _is_open(comparison):
            to_go = pairs_to_go(both, claim.margin, comparison.direction, num_open)
            num_more, outlook = to_go or num_pairs, foreseen(comparison.n, to_go)
        low, high = comparison.interval
        evidence = f"{item.verdict}, p = {comparison.p_holm:.2g}, difference {low:+.2g} to {high:+.2g}"
        found.append(Question(claim.id, claim.variants, num_pairs, num_more, evidence, outlook))
    return found


def pairs_to_go(sides: Sides, margin: float, direction: str, num_open: int) -> int:
    """How many more pairs an open claim will probably take beside `num_open` in all; 0 where so few show no spread.

    Args:
      direction: as a Comparison has it.
    """
    differences = _differences(sides)
    if len(differences) < 2:
        return 0
    needed = expected_num_pairs(differences, margin, ALPHA / num_open, FURTHEST, direction)
    return max(needed.median - len(differences), 1)


def foreseen(num_pairs: int, num_more: int) -> str:
    """How many more pairs would probably answer an open claim, in words, by what `pairs_to_go` gives for `num_pairs`.

    >>> foreseen(8, 5), foreseen(250, 6), foreseen(1, 0)
    ('about 5 more would probably answer it', 'over 5 more would probably answer it', 'one shows no spread')
    """
    if not num_more:
        return "one shows no spread" if num_pairs else "in each of which a network diverged"
    if num_pairs >= FURTHEST:
        return "no end to be foreseen"
    about = f"over {num_more - 1}" if num_pairs + num_more >= FURTHEST else f"about {num_more}"
    return f"{about} more would probably answer it"


def looks(sides: Sides, num_claims: int, direction: str = ">") -> Looks:
    """A claim's evidence and interval by number of pairs, beside `num_claims` in all.

    Args:
      direction: as a Comparison has it; evidence of a difference does not settle "=".
    """
    differences = _differences(sides)
    evidence = np.maximum.accumulate(sequential_evidence(differences).e)
    return Looks(evidence, *confidence_sequence(differences), math.nan if direction == "=" else num_claims / ALPHA)


def _is_open(comparison: Comparison) -> bool:
    return comparison.outcome == "not resolved"


def _differences(sides: Sides) -> Array:
    differences = paired_differences(*sides)
    return differences[np.isfinite(differences)]
