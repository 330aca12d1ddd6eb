"""Until resolved: rounds of seeds for the variants that an open claim needs, until every claim is answered.

The plan of a round depends on the results so far and on nothing else, so that a run that was killed goes on as it
would have gone on.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from mnistlab import config as configs
from mnistlab.analysis import claims, looks, sequential
from mnistlab.analysis.claims import Claim
from mnistlab.analysis.looks import Question
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.training.result import Result


def first_number(asked: Sequence[Claim], variants: Collection[str], options: Options) -> int:
    """How many seeds a run begins with: with `until` the fewest that can answer, or what options say if that is more.

    Raises:
      UserError: no claim is about these variants alone, or max_seeds are too few for any answer.
    """
    if options.until is None:
        return options.num_seeds
    configs.check_seeds(options.first_seed, options.max_seeds)
    of_seeds = [claim for claim in asked if not claims.is_of_the_clock(claim.metric)]
    among = [claim for claim in asked if set(claim.variants) <= set(variants)]  # all enter Holm's correction
    measurable = [claim for claim in of_seeds if claim in among]
    if of_seeds and not measurable:
        raise UserError(
            f"until is {options.until}, but no claim is about these variants alone; leave --variants or --until out"
        )
    if measurable and options.sweep:
        raise UserError(
            f"until is {options.until}, but no claim is about a swept variant; leave --sweep or --until out"
        )
    fewest = sequential.fewest_sequential_pairs(sequential.ALPHA / len(among)) if measurable else 1
    number = max(options.num_seeds, fewest)
    if number > options.max_seeds:
        why = f"{len(among)} claims take {fewest} at least" if number == fewest else f"--seeds is {number}"
        raise UserError(f"max_seeds is {options.max_seeds}, but {why}; give more")
    return number


def questions(asked: Sequence[Claim], results: Mapping[str, Result]) -> list[Question]:
    """Where every claim stands that was measured."""
    sides = [claims.sides(claim, results) for claim in asked]
    return looks.questions(claims.check_sides(asked, sides), sides)


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
    now, still_open = dict(counts), [one for one in asked if one.num_more]
    if not still_open:
        return now, "Every claim that seeds can answer is answered."
    for one in still_open:
        more = min(max(one.num_more, math.ceil(one.num_pairs / 4)), one.num_pairs)
        for name in one.variants:
            now[name] = max(now[name], min(one.num_pairs + more, options.max_seeds))
    if now == dict(counts):
        return now, _open_words(still_open, f"max_seeds is {options.max_seeds}")
    if options.max_minutes is not None and seconds >= 60 * options.max_minutes:
        return now, _open_words(still_open, f"max_minutes is {options.max_minutes:g}; the same command goes on")
    return now, ""


def _open_words(still_open: Sequence[Question], why: str) -> str:
    each = [f"({one.id}) after {one.num_pairs} pairs, {one.outlook}" for one in still_open]
    return f"Open, since {why}: {'; '.join(each)}."
