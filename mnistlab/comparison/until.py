"""Until resolved: rounds of seeds for the variants that an open claim needs, until every claim is answered.

The plan of a round depends on the results so far and on nothing else, so that a run that was killed goes on as it
would have gone on.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnistlab import config as configs
from mnistlab.analysis import claims, history, sequential
from mnistlab.analysis.claims import Claim
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.training.result import Result

FURTHEST = 256  # pairs that are looked ahead


class Question(NamedTuple):
    """Where a claim stands that seeds can answer."""

    id: str
    variants: tuple[str, ...]  # that it is about
    num_pairs: int  # so far, those in which a run diverged among them
    evidence: str  # in words
    total: int  # pairs that it will probably take; num_pairs where it is answered


def first_number(asked: Sequence[Claim], variants: Collection[str], options: Options) -> int:
    """How many seeds a run begins with: with `until` the fewest that can answer, or what options say if that is more.

    Raises:
      UserError: no claim is about these variants alone, or max_seeds are too few for any answer.
    """
    if options.until is None:
        return options.num_seeds
    configs.check_seeds(options.first_seed, options.max_seeds)
    measurable = [claim for claim in asked if set(_variants(claim)) <= set(variants)]
    if asked and not measurable:
        raise UserError(
            f"until is {options.until}, but no claim is about these variants alone; leave --variants or --until out"
        )
    if measurable and options.sweep:
        raise UserError(
            f"until is {options.until}, but no claim is about a swept variant; leave --sweep or --until out"
        )
    fewest = sequential.fewest_sequential_pairs(sequential.ALPHA / len(measurable)) if measurable else 1
    number = max(options.num_seeds, fewest)
    if number > options.max_seeds:
        why = f"{len(measurable)} claims take {fewest} at least" if number == fewest else f"--seeds is {number}"
        raise UserError(f"max_seeds is {options.max_seeds}, but {why}; give more")
    return number


def questions(asked: Sequence[Claim], results: Mapping[str, Result]) -> list[Question]:
    """Where every claim stands that was measured, by the verdict that the page will show."""
    measured = [(item, item.comparison) for item in claims.check(asked, results) if item.comparison]
    num_open = sum(comparison.outcome == "not resolved" for _, comparison in measured)
    found = []
    for item, comparison in measured:
        claim, num_pairs = item.claim, comparison.n + comparison.num_failed
        total = num_pairs
        if comparison.outcome == "not resolved":
            alpha = sequential.ALPHA / num_open
            total += max(_expected(claim, results, alpha, comparison.direction) - comparison.n, 1)
        low, high = comparison.interval
        evidence = f"{item.verdict}, p = {comparison.p_holm:.2g}, difference {low:+.2g} to {high:+.2g}"
        found.append(Question(claim.id, _variants(claim), num_pairs, evidence, total))
    return found


def _expected(claim: Claim, results: Mapping[str, Result], alpha: float, direction: str) -> int:
    """The finite pairs that an open claim will probably take."""
    if isinstance(claim.right, str):
        left, right = claims.paired(results[claim.left], results[claim.right], claim.metric)
    else:
        left = history.metric(results[claim.left], claim.metric)
        right = np.full(len(left), float(claim.right))
    differences = left - right
    pilot = differences[np.isfinite(differences)]
    if len(pilot) < 2:  # their spread cannot be told
        return 2 * len(differences)
    return sequential.expected_num_pairs(pilot, claim.margin, alpha, FURTHEST, direction).median


def progress(asked: Sequence[Question], counts: Mapping[str, int]) -> list[str]:
    """The evidence after a round, a line for each claim, below how many seeds each variant has."""
    seeds = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"seeds: {seeds}", *(f"  ({one.id}) after {one.num_pairs} pairs: {one.evidence}" for one in asked)]


def next_round(
    asked: Sequence[Question], counts: Mapping[str, int], options: Options, seconds: float
) -> tuple[dict[str, int], str]:
    """How many seeds each variant has in the next round, or why there is none, in words.

    An open claim's variants grow to what it will probably take, by a quarter at least and to twice as many at most.

    Args:
      seconds: since the run was started.
    """
    now, still_open = dict(counts), [one for one in asked if one.total > one.num_pairs]
    if not still_open:
        return now, "Every claim is answered."
    for one in still_open:
        more = min(max(one.total - one.num_pairs, math.ceil(one.num_pairs / 4)), one.num_pairs)
        for name in one.variants:
            now[name] = max(now[name], min(one.num_pairs + more, options.max_seeds))
    if now == dict(counts):
        return now, _open_words(still_open, f"max_seeds is {options.max_seeds}")
    if options.max_minutes is not None and seconds >= 60 * options.max_minutes:
        return now, _open_words(still_open, f"max_minutes is {options.max_minutes:g}; the same command goes on")
    return now, ""


def _open_words(still_open: Sequence[Question], why: str) -> str:
    each = []
    for one in still_open:
        more = one.total - one.num_pairs
        about = f"over {more - 1}" if one.total >= FURTHEST else f"about {more}"
        each.append(f"({one.id}) after {one.num_pairs} pairs, {about} more would probably answer it")
    return f"Open, since {why}: {'; '.join(each)}."


def _variants(claim: Claim) -> tuple[str, ...]:
    return (claim.left, claim.right) if isinstance(claim.right, str) else (claim.left,)
