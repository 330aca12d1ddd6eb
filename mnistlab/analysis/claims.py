"""Claims as data: who says what of which metric, and what the seeds say of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnistlab.analysis import history, stats
from mnistlab.errors import UserError
from mnistlab.training.result import Result


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about one metric of one variant, against another variant or a number.

    direction: ">" or "<"; "about": within `tolerance` of it; "same": no difference, which seeds can only refute.
    """

    id: str
    text: str  # the source's words in short
    metric: str  # a name that history.metric knows
    left: str  # a variant
    direction: str
    right: str | float  # a variant, or a number
    tolerance: float = 0.0
    ours: bool = False  # our own question, not the source's claim


class Checked(NamedTuple):
    """A claim with what was measured; `comparison` is None when it could not be measured."""

    claim: Claim
    comparison: stats.Comparison | None
    verdict: str
    sentence: str
    error: float | None = None  # of one exact comparison, which seeds do not change: it has no interval

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
            "ci95": comparison.get("bca_interval"),
            "p": comparison.get("p_holm"),
            "n": comparison.get("n", int(self.error is not None)),
            "sentence": self.sentence,
            "comparison": comparison,
        }


def check(claims: Sequence[Claim], results: Mapping[str, Result]) -> list[Checked]:
    """Measures every claim on the variants that were run; runs are paired by seed, Holm is over all claims."""
    measured: list[stats.Comparison | None] = []
    for claim in claims:
        wanted = [claim.left] + ([claim.right] if isinstance(claim.right, str) else [])
        measured.append(_compare(claim, results) if all(name in results for name in wanted) else None)
    judged = iter(stats.judge([comparison for comparison in measured if comparison is not None]))
    checked = []
    for claim, comparison in zip(claims, measured, strict=True):
        if comparison is None:
            checked.append(
                Checked(claim, None, "not measured", "Not measured: a variant or an epoch of it was not run.")
            )
            continue
        comparison = next(judged)
        verdict = comparison.verdict
        if claim.direction == "same":
            verdict = "reversed (they differ)" if comparison.outcome in ("holds", "reversed") else "not resolved"
        right = claim.right if isinstance(claim.right, str) else f"{claim.right:g}"
        metric = claim.metric.replace("_", " ")
        if claim.direction == "about":
            bound = f"{right} {'-' if comparison.direction == '>' else '+'} {claim.tolerance:g}"
            near = stats.sentence(comparison, claim.left, bound, metric)
            sentence = f"Within {claim.tolerance:g} of {right}, judged by the nearer bound: {near}"
        else:
            sentence = stats.sentence(comparison, claim.left, right, metric)
        checked.append(Checked(claim, comparison, verdict, sentence))
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
    sides = [
        dict(zip((run.seed for run in side.runs), history.metric(side, metric), strict=True)) for side in (left, right)
    ]
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    if not seeds or any(len(values) < len(side.runs) for values, side in zip(sides, (left, right), strict=True)):
        raise UserError(
            "the runs do not pair: both sides need the same seeds, each once; run them with the same --seed and --seeds"
        )
    return np.array([sides[0][seed] for seed in seeds]), np.array([sides[1][seed] for seed in seeds])


def _compare(claim: Claim, results: Mapping[str, Result]) -> stats.Comparison | None:
    if isinstance(claim.right, str):
        left, right = paired(results[claim.left], results[claim.right], claim.metric)
    else:
        left = history.metric(results[claim.left], claim.metric)
        right = np.full(len(left), float(claim.right))
    names = [claim.left] + ([claim.right] if isinstance(claim.right, str) else [])
    for name, values in zip(names, (left, right), strict=False):
        if not np.isfinite(values).any() and not history.diverged(results[name]).all():
            return None  # fewer epochs than the claim speaks of
    return compare(claim, left, right)


def compare(claim: Claim, left: np.ndarray, right: np.ndarray) -> stats.Comparison:
    """Measures a claim on its two sides, float [n] each and paired; of "about" the nearer bound is asked for."""
    direction = claim.direction
    if direction == "same":
        direction = ">"
    elif direction == "about":
        # An intersection-union test: the nearer bound decides.
        finite = np.isfinite(left) & np.isfinite(right)
        below = bool(np.sum(left[finite] - right[finite]) <= 0)
        right = right - claim.tolerance if below else right + claim.tolerance
        direction = ">" if below else "<"
    return stats.compare(left, right, direction=direction)
