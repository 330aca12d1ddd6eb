"""Claims as data: who says what of which metric, and what the seeds say of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnistlab.analysis import history, stats
from mnistlab.errors import UserError
from mnistlab.training.result import Result

ACCURACY_THAT_MATTERS = 0.002
"""20 of 10,000 test images: about the spread over the seeds of one network here, and less than any source discusses."""

DIRECTIONS = (">", "<", "about", "same")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about one metric of one variant, against another variant or a number.

    direction: ">" or "<"; "about": within `tolerance` of it, or without one `matters`; "same": no difference that would
      matter.
    matters: the smallest difference that would matter, said before the runs; None: 0.002 of an accuracy, and of any
      other metric no difference is too small to matter.
    """

    id: str
    text: str  # the source's words in short
    metric: str  # a name that history.metric knows
    left: str  # a variant
    direction: str
    right: str | float  # a variant, or a number
    tolerance: float = 0.0
    ours: bool = False  # our own question, not the source's claim
    matters: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that it is about."""
        return (self.left, self.right) if isinstance(self.right, str) else (self.left,)

    @property
    def margin(self) -> float:
        """The smallest difference that would matter; 0 where any would."""
        if self.direction == "about" and self.tolerance:
            return self.tolerance
        if self.matters is not None:
            return self.matters
        is_accuracy = "accuracy" in self.metric.lower() and not self.metric.startswith("lowest_epoch:")
        return ACCURACY_THAT_MATTERS if is_accuracy else 0.0


class Checked(NamedTuple):
    """A claim with what was measured; `comparison` is None when it could not be measured."""

    claim: Claim
    comparison: stats.Comparison | None
    verdict: str
    sentence: str
    error: float | None = None  # of one exact comparison, which seeds do not change: it has no interval

    @property
    def measured(self) -> str:
        """What was measured, in the words behind the verdict of an exact comparison's sentence."""
        return self.sentence.rpartition(": ")[2]

    def to_dict(self) -> dict[str, Any]:
        """For summary.json."""
        comparison = self.comparison.to_dict() if self.comparison else {}
        return {
            "id": self.claim.id,
            "text": self.claim.text,
            "ours": self.claim.ours,
            "metric": self.claim.metric,
            "left": self.claim.left,
            "direction": self.claim.direction,
            "right": self.claim.right,
            "verdict": self.verdict,
            "delta": comparison.get("difference", self.error),
            "ci95": comparison.get("interval"),
            "p": comparison.get("p_holm"),
            "n": comparison.get("n", int(self.error is not None)),
            "sentence": self.sentence,
            "comparison": comparison,
        }


Sides = tuple[np.ndarray, np.ndarray]  # of a claim, float64 [n] each and paired


def check(claims: Sequence[Claim], results: Mapping[str, Result]) -> list[Checked]:
    """Measures every claim on the variants that were run; runs are paired by seed, Holm is over all claims.

    Raises:
      UserError: runs that do not pair, or a metric that there is not.
    """
    return check_sides(claims, [sides(claim, results) for claim in claims])


def check_sides(claims: Sequence[Claim], sides: Sequence[Sides | None]) -> list[Checked]:
    """Measures every claim on its two sides; None where they were not measured. Holm is over all that were."""
    measured = [None if both is None else compare(claim, *both) for claim, both in zip(claims, sides, strict=True)]
    judged = iter(stats.judge([comparison for comparison in measured if comparison is not None]))
    checked = []
    for claim, unjudged in zip(claims, measured, strict=True):
        if unjudged is None:
            checked.append(
                Checked(claim, None, "not measured", "Not measured: a variant or an epoch of it was not run.")
            )
            continue
        comparison = next(judged)
        right = claim.right if isinstance(claim.right, str) else f"{claim.right:g}"
        sentence = stats.sentence(comparison, claim.left, right, claim.metric.replace("_", " "))
        checked.append(Checked(claim, comparison, comparison.verdict, sentence))
    return checked


def exact(claim: Claim, error: float, measured: str) -> Checked:
    """A claim that one exact comparison decides: it holds where `error` is at most the claim's tolerance."""
    verdict = "holds" if error <= claim.tolerance else "reversed"
    return Checked(claim, None, verdict, f"{verdict}: {measured}", error)


def paired(left: Result, right: Result, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric of both, float64 [n] each, over the n seeds that both were run with, in the order of `left`.

    Raises:
      UserError: they have no seed in common, or one has a seed twice.
    """
    number = [{run.seed: number for number, run in enumerate(side.runs)} for side in (left, right)]
    seeds = [seed for seed in number[0] if seed in number[1]]
    if not seeds or any(len(of) < len(side.runs) for of, side in zip(number, (left, right), strict=True)):
        raise UserError(
            "the runs do not pair: both sides need the same seeds, each once; run them with the same --seed and --seeds"
        )
    chosen = [[of[seed] for seed in seeds] for of in number]
    if is_of_the_clock(metric):
        clocks = [side.epoch_seconds[kept, 0] for side, kept in zip((left, right), chosen, strict=True)]
        chosen = [[kept[pair] for pair in once_each(*clocks)] for kept in chosen]
    return history.metric(left, metric)[chosen[0]], history.metric(right, metric)[chosen[1]]


def is_of_the_clock(metric: str) -> bool:
    """Whether a metric is seconds, of which a population gives one pair: no matter for more seeds."""
    return metric.endswith("seconds")


def once_each(*clocks: np.ndarray) -> list[int]:
    """The numbers of the pairs that repeat no measurement; the runs of a population share the seconds of an epoch.

    Args:
      clocks: of each side the seconds of the first epoch, float64 [n]; later ones some runs may have stopped before.

    >>> once_each(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 4.0]))
    [0, 2]
    """
    kept: list[int] = []
    for number in range(len(clocks[0])):
        if not any(np.isin(clock[number], clock[kept]) for clock in clocks):
            kept.append(number)
    return kept


def measured(left: Result, right: Result | float, metric: str) -> Sides:
    """A metric of one variant against that of another, or against a number.

    Raises:
      UserError: two variants that do not pair.
    """
    if isinstance(right, Result):
        return paired(left, right, metric)
    values = history.metric(left, metric)
    if is_of_the_clock(metric):
        values = values[once_each(left.epoch_seconds[:, 0])]
    return values, np.full(len(values), right)


def sides(claim: Claim, results: Mapping[str, Result]) -> Sides | None:
    """Both sides of a claim on `results`; None where a variant or an epoch of it was not run."""
    if not set(claim.variants) <= set(results):
        return None
    against = results[claim.right] if isinstance(claim.right, str) else float(claim.right)
    left, right = measured(results[claim.left], against, claim.metric)
    for name, values in zip(claim.variants, (left, right), strict=False):
        if not np.isfinite(values).any() and not history.diverged(results[name]).all():
            return None  # fewer epochs than the claim speaks of
    return left, right


def compare(claim: Claim, left: np.ndarray, right: np.ndarray) -> stats.Comparison:
    """Measures a claim on its two sides, float [n] each and paired."""
    direction = {"same": "=", "about": "="}.get(claim.direction, claim.direction)
    return stats.compare(left, right, direction=direction, margin=claim.margin)
