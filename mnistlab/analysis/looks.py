"""What a claim said after each pair, whether it is answered, and how many more pairs it would probably take."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mnistlab.analysis.claims import Checked, Sides
from mnistlab.analysis.sequential import ALPHA, Array, confidence_sequence, expected_num_pairs, sequential_evidence

FURTHEST = 256  # pairs that are looked ahead


class Progress(NamedTuple):
    """Where a claim that seeds can answer stands."""

    id: str
    variants: tuple[str, ...]  # that it is about
    is_open: bool
    num_pairs: int  # so far, without those in which a run diverged
    num_more: int | None  # that it will probably take; 0 where it is answered, None below 2 pairs, of no spread


class Looks(NamedTuple):
    """A claim after each pair; evidence, low and high are float64 [n]."""

    evidence: Array  # of "they differ", the largest so far
    low: Array  # of the 95 % confidence sequence; -inf while nothing can be said
    high: Array
    decides: float  # the evidence that settles it where it is the strongest of all claims


def open_claims(checked: Sequence[Checked], sides: Sequence[Sides | None]) -> list[Progress]:
    """Where every claim that was measured stands.

    Args:
      sides: of each claim, as `claims.sides` gives them.
    """
    measured = [(item, both) for item, both in zip(checked, sides, strict=True) if item.comparison and both]
    num_open = sum(_is_open(item) for item, _ in measured)
    found = []
    for item, both in measured:
        claim, differences, is_open = item.claim, _differences(both), _is_open(item)
        num_more: int | None = None if is_open else 0
        if is_open and len(differences) > 1 and item.comparison:
            asked = item.comparison.direction
            needed = expected_num_pairs(differences, claim.margin, ALPHA / num_open, FURTHEST, asked)
            num_more = max(needed.median - len(differences), 1)
        found.append(Progress(claim.id, claim.variants, is_open, len(differences), num_more))
    return found


def looks(sides: Sides, num_claims: int) -> Looks:
    """A claim's evidence and interval by number of pairs, beside `num_claims` in all."""
    differences = _differences(sides)
    evidence = np.maximum.accumulate(sequential_evidence(differences).e)
    return Looks(evidence, *confidence_sequence(differences), num_claims / ALPHA)


def _is_open(item: Checked) -> bool:
    return item.comparison is not None and item.comparison.outcome == "not resolved"


def _differences(sides: Sides) -> Array:
    differences = sides[0] - sides[1]
    return differences[np.isfinite(differences)]
