"""The page "What we learned": sentences made of verdicts, so that none can disagree with its run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from mnistlab.analysis import claims
from mnistlab.comparison import verdicts, workdirs
from mnistlab.comparison.quirks import Cost
from mnistlab.comparison.verdicts import BoardRun, Judged, Key
from mnistlab.report import text

ASKED = {"reported": "Done as the source did", "controlled": "Asked fairly"}
SAID = {
    "holds": "it holds",
    "reversed": "the opposite is true",
    "no difference that matters": "there is no difference that matters",
    "open": "it is not settled",
}
OFTEN = 0.1  # of two single runs that contradict the claim, from where the page counts it


class Board(NamedTuple):
    """All that the page is made of."""

    found: Sequence[Judged]  # every claim, those of runs that there are not among them
    runs: Mapping[Key, BoardRun]
    costs: Sequence[Cost]
    inside: tuple[int, int]  # of the sources' numbers: in the prediction interval of a single run of ours, and in all
    results: str  # the address of the page with a section for each run

    def link(self, key: Key) -> str:
        """The section of a run."""
        return f"{self.results}#{workdirs.folder_name(*key)}"


class Lesson(NamedTuple):
    """A source's claim, and sentences on it."""

    text: str
    sentences: list[str]


def page(board: Board) -> str:
    """The page in Markdown."""
    environment = Environment(
        loader=PackageLoader("mnistlab.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    template = environment.get_template("learned.md.j2")
    filled = template.render(
        notes=lambda name: notes(board, name),
        lessons=lambda name: lessons(board, name),
        costs=lambda name: [cost_sentence(cost, board) for cost in board.costs if cost.quirk.experiment == name],
        standing=standing(board),
        of_one_run=of_one_run(board),
        optimism=optimism(board),
    )
    return re.sub(r"\n{3,}", "\n\n", filled).strip() + "\n"


def notes(board: Board, experiment: str) -> list[str]:
    """Under which protocols an experiment has no verdicts, and why: it was not run, or its run was changed."""
    made = []
    for protocol, start in ASKED.items():
        key = (experiment, protocol)
        if key not in board.runs:
            made.append(f"{start}: not run yet, so there is no verdict.")
        elif board.runs[key].departures:
            changes = "; ".join(board.runs[key].departures)
            made.append(
                f"{start}: the run departs from the protocol ({changes}), so there is no verdict{_run(key, board)}."
            )
    return made


def lessons(board: Board, experiment: str) -> list[Lesson]:
    """The source's claims of an experiment with their verdicts, and what one run of it could not tell."""
    by_id: dict[str, list[Judged]] = {}
    for one in board.found:
        if one.experiment == experiment and not one.ours:
            by_id.setdefault(one.id, []).append(one)
    made = []
    for asked in by_id.values():
        answered = [one for one in asked if one.state in SAID]
        sentences = [verdict_sentence(one, board) for one in answered]
        sentences += [said for one in answered if (said := one_run(one, board))][:1]
        made.append(Lesson(text.capital(asked[0].text), sentences))
    return made


def verdict_sentence(one: Judged, board: Board) -> str:
    """How a claim stands that was put to a run, with its evidence and its run."""
    said = SAID[one.state]
    if one.state == "reversed" and one.evidence["direction"] not in (">", "<"):
        said = "it is not so"
    why = f" ({one.why})" if one.why else _remark(one.verdict)
    return f"{ASKED[one.protocol]}, {said}{why}{_evidence(one, board)}{_run(one.key, board)}."


def one_run(one: Judged, board: Board) -> str:
    """What the author could not have known from one run; empty where no seeds enter the claim."""
    entry, measured = one.evidence, one.evidence["comparison"]
    sds = (measured.get("sd_a"), measured.get("sd_b"))
    if not measured.get("n") or measured["n"] < 2 or sds[0] is None:
        return ""
    metric, link = entry["metric"], _run(one.key, board)
    left, right = entry["left"], entry["right"]
    is_pair, asked = isinstance(right, str), entry["direction"] in (">", "<")
    if is_pair:
        scatter = f"runs scatter by ±{_size(metric, sds[0])} ({left}) and ±{_size(metric, sds[1] or 0.0)} ({right})"
    else:
        scatter = f"runs of {left} scatter by ±{_size(metric, sds[0])} about {_level(metric, measured['mean_a'])}"
    who = "one run of each" if is_pair else "one run"
    pairs = text.counted(measured["n"], _noun(one, board))
    said = f"; {_contradicted(measured['probability'], measured['n'], pairs, who)}" if asked else ""
    return f"*One run:* {scatter}{said}{link}."


def _noun(one: Judged, board: Board) -> str:
    """What a pair is of: seconds are those of a program, which its seeds share."""
    if not board.runs[one.key].training:
        return "round"
    return "program" if claims.is_of_the_clock(one.evidence["metric"]) else "seed"


def _contradicted(share: float, num_pairs: int, pairs: str, who: str) -> str:
    """For how many `pairs` single runs contradict a claim that is true of `share` of them; a tie is half a one.

    >>> _contradicted(0.75, 8, "8 seeds", "one run"), _contradicted(1.0, 8, "8 seeds", "one run")
    ('one run contradicts the claim for 2 of 8 seeds', 'one run contradicts the claim for none of 8 seeds')
    """
    number = round(2 * (1 - share) * num_pairs) / 2
    return f"{who} contradicts the claim for {f'{number:g}' if number else 'none'} of {pairs}"


def cost_sentence(cost: Cost, board: Board) -> str:
    """What a quirk cost."""
    words = cost.quirk.words
    if cost.difference is None or cost.word in ("not run", "changed run", "not measured"):
        why = {
            "changed run": "the run departs from its protocol",
            "not resolved": f"every pair of seeds diverged{_remark(cost.verdict)}",
        }.get(cost.word, "that was not run")
        return f"What {words} costs is not known yet: {why}{''.join(_run(key, board) for key in cost.keys[:1])}."
    low, high = cost.interval or (float("nan"), float("nan"))
    change = _interval("test_accuracy", cost.difference, low, high)
    start = {
        "holds": f"{text.capital(words)} costs test accuracy",
        "reversed": f"{text.capital(words)} does not cost test accuracy, it adds to it",
        "no difference that matters": f"{text.capital(words)} makes no difference that matters",
    }.get(cost.word, f"What {words} costs is not settled")
    seeds, links = text.counted(cost.num_pairs, "seed"), "".join(_run(key, board) for key in cost.keys)
    if cost.difference == low == high == 0:  # validation chose what the source had
        return f"{start}: mended, it is the same run, {seeds}{links}."
    return f"{start}: mended, test accuracy changes by {change}, {seeds}{_remark(cost.verdict)}{links}."


def _remark(verdict: str) -> str:
    """What a verdict says in brackets: who diverged, a mean that a few pairs pull away.

    >>> _remark("holds (D diverged in 3 of 8 seeds)"), _remark("holds")
    (' (D diverged in 3 of 8 seeds)', '')
    """
    return f" ({found[1]})" if (found := re.search(r" \((.*)\)$", verdict)) else ""


def standing(board: Board) -> list[str]:
    """How the sources' claims stand, a sentence for each protocol."""
    made = []
    for protocol, words in ASKED.items():
        some = [one for one in board.found if one.protocol == protocol and not one.ours]
        tally = {state: number for state, number in verdicts.tally(some).items() if number}
        if some:
            each = ", ".join(f"{number} {_state_words(state, number)}" for state, number in tally.items())
            made.append(f"{words}, of {len(some)} claims {each}.")
    return made


def of_one_run(board: Board) -> list[str]:
    """What all sources together could not know."""
    pairs = [
        one
        for one in board.found
        if one.protocol == "reported" and not one.ours and one.state in SAID and isinstance(one.evidence["right"], str)
        if one.evidence["direction"] in (">", "<") and one.evidence["comparison"].get("probability") is not None
        if not claims.is_of_the_clock(one.evidence["metric"])  # a program is timed once, for all its seeds
    ]
    made = []
    if pairs:
        often = [one for one in pairs if one.evidence["comparison"]["probability"] <= 1 - OFTEN]
        which = "; ".join(f"“{one.text}”{_run(one.key, board)}" for one in often)
        asked = text.counted(len(pairs), "claim")
        said = f"Of {asked} that set one network against another and were run as the source did"
        contradicted = "would have been contradicted by one run of each for at least one seed in ten"
        made.append(f"{said}, {len(often)} {contradicted}{': ' if often else ''}{which}.")
    within, of = board.inside
    if of:
        could = "could have come out of one run of ours"
        said = f"Of {of} test accuracies and losses that the sources print, {within} {could}"
        made.append(f"{said} ([in its 95 % prediction interval]({board.results}#reported-and-ours)).")
    return made or ["Nothing was run yet that could tell."]


def optimism(board: Board) -> list[str]:
    """By how much the best epoch of one run flatters, where a run measured it."""
    made = []
    for key, run in board.runs.items():
        for name, entry in run.summary.get("best_minus_last_epoch", {}).items():
            if entry["mean"] is None or None in entry["ci95"] or run.departures:
                continue
            gap = _interval("accuracy", entry["mean"], *entry["ci95"])
            said = f"The best epoch of a run instead of its last flatters `{name}` by {gap}"
            made.append(f"{said} in validation{_run(key, board)}.")
    return made


def _interval(metric: str, mean: float, low: float, high: float) -> str:
    unit = text.unit(metric)
    values = (unit.factor * value for value in (mean, low, high))
    return text.format_interval(*values, signed=True) + unit.of_difference


def _size(metric: str, value: float) -> str:
    unit = text.unit(metric)
    return text.format_significant(unit.factor * value, 2) + unit.of_difference


def _level(metric: str, value: float) -> str:
    unit = text.unit(metric)
    return text.format_significant(unit.factor * value, 4 if unit.quantity == "accuracy" else 3) + unit.of_level


def _evidence(one: Judged, board: Board) -> str:
    entry = one.evidence
    if not entry["comparison"]:
        measured = entry.get("sentence", "").rpartition(": ")[2].rstrip(".")
        return f" ({measured})" if measured and one.state != "open" else ""
    ends = entry["ci95"] or (None, None)
    if entry["delta"] is None:
        return ""
    low, high = (float("nan") if end is None else end for end in ends)
    what = "" if isinstance(entry["right"], str) else " from the number"
    change = _interval(entry["metric"], entry["delta"], low, high)
    pairs = text.counted(entry["n"], _noun(one, board))
    return f": {change}{what}{'' if one.state == 'open' else f', {pairs}'}"  # why it is open says them


def _run(key: Key, board: Board) -> str:
    name = key[0] if key[1] == "reported" else f"{key[0]}, {key[1]}"
    return f" ([{name}]({board.link(key)}))" if key in board.runs else ""


def _state_words(state: str, number: int) -> str:
    many: Mapping[str, Any] = {
        "holds": ("holds", "hold"),
        "reversed": ("is reversed", "are reversed"),
        "no difference that matters": (
            "is of a difference that does not matter",
            "are of differences that do not matter",
        ),
        "open": ("is not settled", "are not settled"),
        "not run": ("was not run", "were not run"),
        "changed run": ("was asked of a changed run", "were asked of changed runs"),
    }
    return str(many[state][number != 1])
