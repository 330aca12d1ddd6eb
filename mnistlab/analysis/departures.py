"""How a run departs from its experiment's protocol, in words, and what may then be concluded.

A run with other epochs, other data or another learning rate than the protocol's is a measurement like any other, but it
neither confirms nor refutes the source. So it is called a changed run wherever it is quoted, no reported number stands
beside it, and its verdicts, which may well be what was wanted, begin with "changed run".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mnistlab.analysis.claims import Checked
from mnistlab.config import WORDS, TrainConfig, flat, to_dict

CONSEQUENCE = (
    "It departs from its protocol, so it says nothing of what the source reported: no reported number stands beside "
    "it, and its verdicts are on this run alone."
)
UNKNOWN = "an older run, which does not say in what it departs"
ROUNDING_ONLY = "model_options.form"  # how convolutions are computed


class Setup(NamedTuple):
    """What decides the results of a variant."""

    config: TrainConfig
    learning_rates: tuple[float, ...] = ()  # of which one is chosen on validation


def between(
    protocol: Mapping[str, Setup], run: Mapping[str, Setup], sweep: Mapping[str, Sequence[float]]
) -> tuple[str, ...]:
    """How the variants of a `run` differ from the `protocol`'s; variants are named where not all differ that way.

    >>> own, longer = TrainConfig("dense", num_epochs=20), TrainConfig("dense", num_epochs=30)
    >>> between({"a": Setup(own), "b": Setup(longer)}, {"a": Setup(longer), "b": Setup(longer)}, {})
    ('epochs 20 -> 30 (a)',)
    """
    by_change: dict[str, list[str]] = {}
    for name, setup in run.items():
        if "learning_rate" in sweep:  # takes the place of a choice
            setup = setup._replace(learning_rates=protocol[name].learning_rates)
        for change in _changes(protocol[name], setup):
            by_change.setdefault(change, []).append(name)
    found = [
        change if len(names) == len(run) else f"{change} ({', '.join(names)})" for change, names in by_change.items()
    ]
    return (*found, *(f"{name} swept over {', '.join(map(_word, values))}" for name, values in sweep.items()))


def of_summary(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The departures that a summary.json names; one from an earlier release, which names none, may have any."""
    return tuple(summary.get("departures", [UNKNOWN]))


def brief(departures: Sequence[str]) -> str:
    """All of them, after a comma or in a cell: "changed run: epochs 20 -> 3"."""
    return f"changed run: {'; '.join(departures)}"


def title(text: str, departures: Sequence[str]) -> str:
    """The title of a run's page."""
    return f"{text} – {brief(departures)}" if departures else text


def protocol_words(protocol: str, departures: Sequence[str]) -> str:
    """The protocol of a run, for a sentence to quote.

    >>> protocol_words("reported", ()), protocol_words("reported", ("epochs 20 -> 3",))
    ('protocol reported', 'a changed run of protocol reported (epochs 20 -> 3)')
    """
    changed = f" ({'; '.join(departures)})" if departures else ""
    return f"{'a changed run of ' if departures else ''}protocol {protocol}{changed}"


def protocol_of(summary: Mapping[str, Any]) -> str:
    """`protocol_words` of the run of a summary.json."""
    return protocol_words(summary["protocol"], of_summary(summary))


def notice(departures: Sequence[str], consequence: str = CONSEQUENCE) -> str:
    """What stands on top of the page of a changed run."""
    return f"Changed run: {'; '.join(departures)}. {consequence}"


def of_changed_run(checked: Sequence[Checked], departures: Sequence[str]) -> list[Checked]:
    """`checked`, reworded for a changed run, whose verdicts never judge the source; unchanged without departures."""
    if not departures:
        return list(checked)
    return [
        item._replace(
            verdict=f"changed run: {_neutral(item.verdict, item.claim.direction)}",
            sentence=f"Changed run ({'; '.join(departures)}): {_neutral(item.sentence, item.claim.direction)}",
        )
        if item.verdict != "not measured"
        else item
        for item in checked
    ]


def verdict_word(verdict: str) -> str:
    """A verdict alone, without that a run was changed and without what is said in brackets.

    >>> verdict_word("changed run: holds (A diverged in 1 of 8 seeds)")
    'holds'
    """
    return verdict.removeprefix("changed run: ").partition(" (")[0]


def tally(verdicts: Iterable[str]) -> str:
    """How many claims have which verdict, the most frequent first.

    >>> tally(["changed run: holds", *2 * ["changed run: does not hold (n too small)"]])
    'changed run: 2 do not hold, 1 holds'
    """
    verdicts = list(verdicts)
    counts = Counter(map(verdict_word, verdicts))
    changed = "changed run: " if any(verdict.startswith("changed run: ") for verdict in verdicts) else ""
    many = {word: word.replace("holds", "hold").replace("does not", "do not") for word in counts}
    return changed + ", ".join(f"{n} {word if n == 1 else many[word]}" for word, n in counts.most_common())


def _neutral(text: str, direction: str) -> str:
    """A verdict, or a sentence with one behind a colon, without the word that refers to a source."""
    word = "the opposite holds" if direction in (">", "<") else "does not hold"
    return re.sub(r"(^|: )reversed\b", rf"\1{word}", text, count=1)


def _changes(own: Setup, now: Setup) -> list[str]:
    before, after = _flat(own.config), _flat(now.config)
    differing = [name for name in {**before, **after} if before.get(name) != after.get(name) and name != ROUNDING_ONLY]
    chosen = own.learning_rates != now.learning_rates
    changes = [
        _change(name, before.get(name), after.get(name))
        for name in differing
        if not (chosen and name == "optimizer.learning_rate")
    ]
    if chosen:
        rates = [
            f"chosen of {', '.join(map(_word, setup.learning_rates))}"
            if setup.learning_rates
            else _word(setup.config.optimizer.learning_rate)
            for setup in (own, now)
        ]
        changes.append(f"learning_rate {rates[0]} -> {rates[1]}")
    return changes


def _change(name: str, before: Any, after: Any) -> str:
    if name == "limit_examples":
        return "trained on all examples" if after is None else f"trained on the first {after:,} examples"
    field = name.removeprefix("optimizer.")
    shown = WORDS.get(field, field.removeprefix("model_options.").replace("augment.", "augment "))
    none = "the model's" if name == "dropout_rate" else "none"
    return f"{shown} {_word(before, none)} -> {_word(after, none)}"


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Every knob by name, those of nested configs as "optimizer.name"."""
    program = getattr(config.program, "__name__", config.program)
    return flat(to_dict(config) | {"model_options": dict(config.model_options), "program": program})


def _word(value: Any, none: str = "none") -> str:
    if value is None or value == ():
        return none
    if isinstance(value, tuple):
        return ", ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
