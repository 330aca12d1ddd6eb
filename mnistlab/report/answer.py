"""The first sentence of a page: what a run answers to the question it was made for."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnistlab.analysis import claims, history, sequential, stats
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.analysis.departures import tally, verdict_word
from mnistlab.report import text
from mnistlab.training.result import Result

USUAL_SEEDS = 8
GO_ON = "To answer it, keeping what was already run"
FEW = 3  # claims that one sentence names


class Answer(NamedTuple):
    """A sentence, and how many seeds can say more: None where no number of seeds would."""

    sentence: str
    wanted_seeds: int | None = None
    by_claims: bool = False  # whether what seeds can answer is a claim


class _Clause(NamedTuple):
    """What is said of one thing that was asked."""

    state: str  # "yes", "no", "same", "open", "one run", "diverged", "unasked" or "level"
    text: str


_STATES = {
    "holds": "yes",
    "reversed": "no",
    "the opposite holds": "no",
    "does not hold": "no",
    "no difference that matters": "same",
}
_OPENINGS = {
    "yes": "Yes: ",
    "no": "No: ",
    "same": "No difference that matters: ",
    "open": "Not resolved: ",
    "diverged": "No answer: ",
}


def answer(
    checked: Sequence[Checked],
    results: Mapping[str, Result],
    asked: Sequence[str] = (),
    *,
    departures: Sequence[str] = (),
    reported: Mapping[str, Mapping[str, float]] | None = None,
) -> Answer:
    """What `checked` claims and the `results` say, first of all.

    Args:
      asked: what the question asks: ids of claims, or metrics whose level is asked for; none: the first claim, or all
        where they are exact comparisons.
      departures: of the run from its protocol; then it is of this run that the sentence speaks.
      reported: variant -> metric -> the source's number, which the sentence says to be reproduced or not.
    """
    by_id = {item.claim.id: item for item in checked}
    if not asked and any(item.error is not None for item in checked):
        return Answer(_of_exact(checked, departures))
    asked = tuple(asked) or tuple(by_id)[:1] or ("test_accuracy",)
    items = [by_id[name] for name in asked if name in by_id]
    clauses = [_clause(by_id[name], results) if name in by_id else _level(name, results) for name in asked]
    if results and all(clause.state == "unasked" for clause in clauses):  # of other variants, or of points of a sweep
        clauses += [clause for clause in [_level("test_accuracy", results)] if clause.state != "diverged"]
    alone = len(clauses) == 1
    if alone and asked[0] in by_id and clauses[0].state == "open":
        clauses = [_Clause("open", _open_alone(by_id[asked[0]], results))]
    sentence = _joined(clauses, bool(departures), len(results))
    sentence += _reproduced(asked[0], by_id, results, reported or {}) if not departures else ""
    return Answer(sentence + ".", _wanted(clauses, checked, items), any(item.comparison for item in items))


def of_measured(checked: Sequence[Checked]) -> str:
    """The sentence of an experiment that trains nothing: each claim, whether it holds, and what was measured."""
    parts = [
        f"{item.claim.text}: {item.verdict} ({item.measured.rstrip('.')})"
        for item in checked
        if item.verdict != "not measured"
    ]
    parts += [f"not measured: {item.claim.text}" for item in checked if item.verdict == "not measured"]
    return text.capital("; ".join(parts) + ".")


def of_judged(checked: Sequence[Checked]) -> str:
    """The sentence of claims alone: of few, each with its verdict; of many, how many have which."""
    if len(checked) <= FEW:
        verdicts = [stats.named(item.verdict, item.claim.left, str(item.claim.right)) for item in checked]
        return "; ".join(f"{item.claim.text}: {verdict}" for item, verdict in zip(checked, verdicts, strict=True)) + "."
    return f"Of {len(checked)} claims: {tally(item.verdict for item in checked)}."


def wanted_seeds(num_seeds: int, num_claims: int) -> int:
    """How many seeds can resolve what so many leave open, beside `num_claims` in all; more than there are."""
    fewest = max(USUAL_SEEDS, sequential.fewest_sequential_pairs(stats.ALPHA / max(1, num_claims)))
    return fewest if num_seeds < fewest else 2 * num_seeds


def keeping(command: str) -> str:
    """`command` without the flag that would delete what it left.

    >>> keeping("mnistlab run fashion_mlp --noresume --epochs=2")
    'mnistlab run fashion_mlp --epochs=2'
    """
    return re.sub(r"\s--(noresume|resume=\w+)(?!\S)", "", command)


def going_on(command: str, num_seeds: int, *, until: bool) -> str:
    """`command`, going on until its claims are answered, with at most `num_seeds` or what is usual; or with so many.

    >>> going_on("mnistlab run fashion_mlp --seeds=1", 128, until=True)
    'mnistlab run fashion_mlp --seeds=1 --until=resolved --max_seeds=128'
    >>> going_on("mnistlab run fashion_mlp --seeds=1 --noresume --epochs=2", 8, until=False)
    'mnistlab run fashion_mlp --seeds=8 --epochs=2'
    """
    command = keeping(command)
    if until:
        rest = re.sub(r"\s--(until|max_seeds)[= ]\w+", "", command) + " --until=resolved"
        return rest if num_seeds <= sequential.MAX_SEEDS else f"{rest} --max_seeds={num_seeds}"
    rest = re.sub(r"\s--seeds[= ]\d+", f" --seeds={num_seeds}", command)
    return rest if rest != command else f"{command} --seeds={num_seeds}"


def _joined(clauses: Sequence[_Clause], changed: bool, num_variants: int) -> str:
    """The clauses as one sentence, which begins with yes or no where one thing was asked of a run as the source's."""
    said = [clause for clause in clauses if clause.state != "unasked"]
    one_run = any(clause.state == "one run" for clause in said)
    if not said:
        return f"No answer: {', '.join(clause.text for clause in clauses)}"
    if len(clauses) == 1 and not one_run and not changed and clauses[0].state in _OPENINGS:
        return _OPENINGS[clauses[0].state] + clauses[0].text
    parts = [clause.text for clause in said if clause.state != "open"]
    for state, words, most in (("open", "not resolved", len(clauses)), ("unasked", "not asked in this run", FEW)):
        if texts := [clause.text for clause in clauses if clause.state == state]:
            named = ", ".join(texts) if len(texts) <= most else f"{len(texts)} other claims"
            parts.append(f"{words}: {named}")
    sentence = "; ".join(parts)
    if one_run:
        runs = "One run of each" if num_variants > 1 else "One run"
        return f"{runs} cannot tell luck from difference: {'in this changed run ' if changed else 'here '}{sentence}"
    return f"In this changed run, {sentence}" if changed else _capital(sentence)


def _clause(item: Checked, results: Mapping[str, Result]) -> _Clause:
    claim, c = item.claim, item.comparison
    names = claim.variants
    if item.error is not None:
        state = _STATES.get(verdict_word(item.verdict), "open")
        return _Clause(state, f"{claim.text}: {item.measured.rstrip('.')}")
    if c is None:
        missing = [name for name in names if name not in results]
        why = f"{' and '.join(missing)} not run" if missing else "too few epochs"
        return _Clause("unasked", f"“{claim.text}” ({why})")
    if c.n == 0:
        lost = [name for name in names if history.diverged(results[name]).all()]
        which = f"all seeds of {' and of '.join(lost)} diverged" if lost else "in every pair a network diverged"
        return _Clause("diverged", f"{which}, so that nothing says whether {_claimed(item)}")
    state = _STATES.get(verdict_word(item.verdict), "open")
    if c.n + c.num_failed == 1 and not claims.is_of_the_clock(claim.metric):
        return _Clause("one run", _observed(item))
    seeds = f" ({_seeds(item, results)})"
    if state == "open":
        gap = f"{_signed(claim.metric, c.difference)} on average"
        return _Clause(state, f"whether {_claimed(item)} ({gap}, {_seeds(item, results)})")
    off = f"on average by {_amount(claim.metric, c.difference)} ({_total(item)})"
    both, where = _compared(claim)
    pulled = f"; {stats.PULLED}" if stats.PULLED in item.verdict else ""
    if _is_of_two_alike(claim) and state in ("yes", "same"):
        return _Clause("yes", f"{both} do not differ{where} by as much as would matter, {off}{pulled}")
    if state == "same" and isinstance(claim.right, str):
        return _Clause(state, f"{both} differ{where} by less than would matter, {off}{pulled}")
    if pulled and state in ("yes", "no"):
        return _Clause(state, _between(item, state == "yes") + f" ({_total(item)}){pulled}")
    return _Clause(state, _observed(item) + seeds + pulled)


def _open_alone(item: Checked, results: Mapping[str, Result]) -> str:
    assert item.comparison is not None
    do = "does" if item.comparison.n == 1 else "do"
    said = f"{_counted(item)} {do} not tell whether {_claimed(item)}"
    return f"{said}; on average {_observed(item)} ({_seeds(item, results)})"


def _words(metric: str) -> str:
    return re.sub(r"@(\d+)", r" after epoch \1", metric.replace("_", " ").replace(":", " of "))


def _relation(item: Checked, greater: bool) -> str:
    """How the left side stands to the right one, in words."""
    claim, right = item.claim, item.claim.right
    if not isinstance(right, str):
        side = "above" if greater else "below"
        return f"the {_words(claim.metric)} of {claim.left} is {side} {_level_of(claim.metric, right)}"
    if claim.metric == "test_accuracy":
        return f"{claim.left} is {'more' if greater else 'less'} accurate than {right}"
    return f"{claim.left} has a {'higher' if greater else 'lower'} {_words(claim.metric)} than {right}"


def _claimed(item: Checked, is_so: bool = True) -> str:
    """What a claim says, or that it is not so; of two that are said to be alike always that they differ."""
    claim = item.claim
    if claim.direction == "about" and not isinstance(claim.right, str):
        near = f"{_amount(claim.metric, claim.margin)} of {_level_of(claim.metric, claim.right)}"
        return f"the {_words(claim.metric)} of {claim.left} is {'' if is_so else 'not '}within {near}"
    if _is_of_two_alike(claim):
        both, where = _compared(claim)
        return f"{both} differ{where}"
    return _relation(item, (claim.direction == ">") == is_so)


def _compared(claim: Claim) -> tuple[str, str]:
    """The two that a claim is about, and wherein they differ."""
    if isinstance(claim.right, str):
        return f"{claim.left} and {claim.right}", f" in {_words(claim.metric)}"
    return f"the {_words(claim.metric)} of {claim.left} and {_level_of(claim.metric, claim.right)}", ""


def _is_of_two_alike(claim: Claim) -> bool:
    """Whether a claim says that two are the same, or about the same: variants, or one and a number."""
    return claim.direction == "same" or (claim.direction == "about" and isinstance(claim.right, str))


def _observed(item: Checked) -> str:
    """What the means say, whatever it proves."""
    claim, c = item.claim, item.comparison
    assert c is not None
    mean = _level_of(claim.metric, c.mean_a)
    if not isinstance(claim.right, str):
        if claim.direction != "about":
            return f"{_relation(item, c.difference > 0)}, at {mean}"
        return f"{_claimed(item, abs(c.mean_a - claim.right) <= claim.margin)}, at {mean}"
    if c.difference == 0:
        return f"{claim.left} and {claim.right} have the same {_words(claim.metric)}, {mean}"
    against = f"{mean} against {_level_of(claim.metric, c.mean_b)}"
    return f"{_relation(item, c.difference > 0)} by {_amount(claim.metric, c.difference)}, {against}"


def _between(item: Checked, is_so: bool) -> str:
    """What a verdict says where the means say something else, with its interval."""
    claim, c = item.claim, item.comparison
    assert c is not None
    low, high = (_signed(claim.metric, value) for value in c.interval)
    return f"{_claimed(item, is_so)}, the difference lies between {low} and {high}"


def _seeds(item: Checked, results: Mapping[str, Result]) -> str:
    """In how many seeds what the means say is so, and how many diverged."""
    claim, c = item.claim, item.comparison
    assert c is not None
    if claim.direction in ("about", "same") or c.difference == 0:
        return _total(item)
    both = claims.sides(claim, results)
    if both is None:
        return _total(item)
    same_side = np.sign(both[0] - both[1]) == np.sign(c.difference)
    return f"{int(same_side.sum())} of {_total(item)}"


def _total(item: Checked) -> str:
    assert item.comparison is not None
    lost = item.comparison.num_failed
    return _counted(item) + (f", {lost} diverged" if lost else "")


def _counted(item: Checked) -> str:
    """How many pairs: of seeds, or of programs, whose seeds share each of their seconds."""
    assert item.comparison is not None
    return text.counted(item.comparison.n, "timed program" if claims.is_of_the_clock(item.claim.metric) else "seed")


def _amount(metric: str, value: float) -> str:
    """A difference without its sign, with its unit."""
    unit = text.unit(metric)
    digits = 2 if unit.quantity == "accuracy" else 3
    return text.format_significant(unit.factor * abs(value), digits) + unit.of_difference


def _signed(metric: str, value: float) -> str:
    """A difference with its sign and its unit."""
    return ("−" if value < 0 else "+") + _amount(metric, value)


def _level_of(metric: str, value: float) -> str:
    """A value with its unit."""
    unit = text.unit(metric)
    is_accuracy = unit.quantity == "accuracy"
    return (text.minus(f"{100 * value:.2f}") if is_accuracy else text.format_significant(value)) + unit.of_level


def _level(metric: str, results: Mapping[str, Result]) -> _Clause:
    """How high a metric is, and of several variants where it is highest."""
    values = {name: history.metric(result, metric) for name, result in results.items()}
    means = {
        name: float(array[np.isfinite(array)].mean()) for name, array in values.items() if np.isfinite(array).any()
    }
    words = _words(metric)
    if not means:
        return _Clause("diverged", f"every network diverged, so that there is no {words}")
    best = [name for name, mean in means.items() if mean == max(means.values())]

    def of(name: str) -> str:
        n = int(np.isfinite(values[name]).sum())
        return f" (mean of {n} seeds)" if n > 1 else ""

    level = _level_of(metric, max(means.values()))
    state = "level" if max(len(array) for array in values.values()) > 1 else "one run"
    lost = [name for name in values if name not in means]
    if len(means) == 1:
        alone = f"; every seed of {' and of '.join(lost)} diverged" if lost else ""
        return _Clause(state, f"{best[0]} has a {words} of {level}{of(best[0])}{alone}")
    lowest = min(means, key=lambda name: means[name])
    level += "" if of(best[0]) == of(lowest) else of(best[0])  # else said once, of both
    has = f"{' and '.join(best)} {'has' if len(best) == 1 else 'have'}"
    low = f"{lowest} the lowest, {_level_of(metric, means[lowest])}{of(lowest)}"
    return _Clause(state, f"of {len(means)} variants {has} the highest {words}, {level}, and {low}")


def _reproduced(
    first: str, by_id: Mapping[str, Checked], results: Mapping[str, Result], reported: Mapping[str, Mapping[str, float]]
) -> str:
    """Whether the source's numbers for what is asked first could have been among our runs."""
    claim = by_id[first].claim if first in by_id else None
    metric = claim.metric if claim else first
    numbers = {
        name: reported[name][metric]
        for name in ([claim.left] if claim else results)
        if name in results and metric in reported.get(name, {})
    }
    values = {name: history.metric(results[name], metric) for name in numbers}
    values = {name: array[np.isfinite(array)] for name, array in values.items() if np.isfinite(array).any()}
    if not values:
        return ""
    if len(values) == 1:
        ((name, array),) = values.items()
        theirs = _level_of(metric, numbers[name])
        if len(array) < 2:
            return f"; the source has {theirs} for {name}"
        said = "reproduced" if stats.inside(array, numbers[name]) else "not reproduced"
        return f"; the source's {theirs} for {name} is {said} (our mean: {_level_of(metric, float(array.mean()))})"
    if min(map(len, values.values())) < 2:
        return ""
    within = [name for name, array in values.items() if stats.inside(array, numbers[name])]
    which = f" ({', '.join(within)})" if within else ""
    return f"; reproduced: {len(within)} of the source's {len(values)} numbers{which}"


def _wanted(clauses: Sequence[_Clause], checked: Sequence[Checked], items: Sequence[Checked]) -> int | None:
    """How many seeds can resolve what is open, where all go the same way; more than there are."""
    if not {clause.state for clause in clauses} & {"open", "one run"}:
        return None
    if items and all(claims.is_of_the_clock(item.claim.metric) for item in items):
        return None
    measured = sum(item.comparison is not None for item in checked)
    return wanted_seeds(max((item.comparison.n for item in items if item.comparison), default=1), measured)


def _of_exact(checked: Sequence[Checked], departures: Sequence[str]) -> str:
    """The sentence of claims that one exact comparison each decides."""
    exact = [item for item in checked if item.error is not None]
    wrong = [item for item in exact if _STATES.get(verdict_word(item.verdict)) != "yes"]
    largest = max(
        (item.error for item in exact if item.error is not None and math.isfinite(item.error)), default=math.nan
    )
    start = "In this changed run " if departures else ("No: " if wrong else "Yes: ")
    if wrong:
        named = "; ".join(item.claim.text for item in wrong)
        return f"{start}of {len(exact)} exact comparisons {len(wrong)} found no agreement: {named}."
    return (
        f"{start}all {len(exact)} exact comparisons agree within their tolerances, "
        f"the largest error {text.format_error(largest)}."
    )


def _capital(words: str) -> str:
    """A sentence begins with a capital, unless a variant's name does."""
    return text.capital(words) if re.match(r"(the|of|all|not|every)\b", words) else words
