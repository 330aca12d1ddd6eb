"""The claims of many runs: how each stands, why it is open, and what its answer took."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnistlab import sealed
from mnistlab.analysis import claims, departures, looks, stats
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import saved, schema
from mnistlab.comparison.saved import RunFolder
from mnistlab.report import text

Key = tuple[str, str]
"""Experiment and protocol."""

STATES = ("holds", "reversed", "no difference that matters", "open", "not run", "changed run")
"""How a claim can stand. Changed run: its run departs from the protocol, so that another question was asked."""


class BoardRun(NamedTuple):
    """A run of an experiment under a protocol, as far as it can be read back."""

    summary: Mapping[str, Any]
    folder: Path
    departures: tuple[str, ...]
    training: RunFolder | None  # its curves and configs; None where it trained nothing or left no history
    command: str  # that made it, without the folders of a machine; empty where it is not known


class Judged(NamedTuple):
    """A claim under a protocol."""

    experiment: str
    protocol: str
    id: str
    text: str
    ours: bool  # our own question, not the source's claim
    state: str  # of STATES
    verdict: str  # as the page of its run has it
    why: str = ""  # it is open
    num_pairs: int | None = None  # that enter the verdict; None where no seeds do
    seconds: float | None = None  # of compiling, training and evaluating what it is about
    evidence: Mapping[str, Any] = {}  # the claim's entry in summary.json

    @property
    def key(self) -> Key:
        """Of its run."""
        return self.experiment, self.protocol


def read(folder: Path, summary: Mapping[str, Any]) -> BoardRun:
    """The run in `folder`, whose summary.json was read.

    Raises:
      UserError: its config.json or its history.csv is damaged.
    """
    settings = sealed.read(folder / "config.json", saved.COPY) if (folder / "config.json").exists() else {}
    command = settings.get("command") if isinstance(settings, dict) else ""
    is_training = (folder / "history.csv").exists() and not schema.misfit(settings, "config.json")
    training = saved.read_run(folder) if is_training and not schema.misfit(summary, "of training") else None
    words = re.sub(r" --(workdir|data_dir|compile_cache)[= ]\S+", "", " ".join(str(command or "").split()))
    return BoardRun(summary, folder, departures.of_summary(summary), training, words)


def judged(key: Key, run: BoardRun, variants: Collection[str] | None = None) -> list[Judged]:
    """How the claims of a run stand, without those that its protocol does not ask.

    Args:
      variants: of the protocol; None where the experiment has none by name.
    """
    entries = [entry for entry in run.summary["claims"] if not _is_unasked(entry, variants)]
    num_open = sum(departures.verdict_word(entry["verdict"]) == "not resolved" for entry in entries)
    found = []
    for entry in entries:
        word = departures.verdict_word(entry["verdict"])
        state = "changed run" if run.departures else word if word in STATES else "open"
        verdict = stats.named(entry["verdict"], entry["left"], str(entry["right"]))
        if run.departures == (departures.UNKNOWN,):  # its verdict may judge the source
            verdict = f"{departures.UNKNOWN}: no verdict"
        found.append(
            Judged(
                *key,
                entry["id"],
                entry["text"],
                bool(entry.get("ours")),
                state,
                verdict,
                _why(entry, run, num_open) if state == "open" else "",
                entry.get("n") if entry["comparison"] else None,
                _seconds_of_claim(run.summary, entry),
                entry,
            )
        )
    return found


def not_run(key: Key, asked: Iterable[Claim], variants: Collection[str]) -> list[Judged]:
    """The claims of a run that there is not."""
    return [
        Judged(*key, claim.id, claim.text, claim.ours, "not run", "not run")
        for claim in asked
        if set(claim.variants) <= set(variants)
    ]


def tally(some: Iterable[Judged]) -> dict[str, int]:
    """How many stand how, every state named."""
    counts = Counter(one.state for one in some)
    return {state: counts[state] for state in STATES}


def variants_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The variants that a claim of a summary.json is about."""
    return (entry["left"], entry["right"]) if isinstance(entry["right"], str) else (entry["left"],)


def seconds_of(summary: Mapping[str, Any], names: Iterable[str] | None = None, part: str = "") -> float | None:
    """Wall seconds of a run, or of some of its variants, where it says them by variant.

    Args:
      part: of the names of seconds, such as "train_seconds"; empty: all of them.

    >>> summary = {"seconds": {"a": {"compile_seconds": 1.0, "train_seconds": 2.0}, "b": {"train_seconds": 4.0}}}
    >>> seconds_of(summary), seconds_of(summary, ["a"]), seconds_of(summary, ["a", "b"], "train_seconds")
    (7.0, 3.0, 6.0)
    """
    seconds = summary["seconds"]
    is_by_variant = any(isinstance(value, Mapping) for value in seconds.values())
    if names is None or not is_by_variant:
        return _total(seconds, part) if seconds and (is_by_variant or not part) else None
    found = [_named(seconds, name) for name in dict.fromkeys(names)]
    if not all(found):  # a variant of which no time is known
        return None
    return sum(_total(each, part) for some in found for each in some)


def _seconds_of_claim(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> float | None:
    """Of the variants that a claim is about, of the whole run where it is about none; None if it was not measured."""
    if departures.verdict_word(entry["verdict"]) == "not measured":
        return None
    names = variants_of(entry)
    return seconds_of(summary, names if set(names) <= set(summary["variants"]) else None)


def _named(seconds: Mapping[str, Any], name: str) -> list[Any]:
    """What is said of a variant, in each run of several that were gathered."""
    if name in seconds:
        return [seconds[name]]
    return [value[name] for value in seconds.values() if isinstance(value, Mapping) and name in value]


def _total(value: Any, part: str) -> float:
    if not isinstance(value, Mapping):
        return float(value)
    return sum(
        _total(inside, part)
        for name, inside in value.items()
        if isinstance(inside, Mapping) or not part or name == part
    )


def _is_unasked(entry: Mapping[str, Any], variants: Collection[str] | None) -> bool:
    is_measured = departures.verdict_word(entry["verdict"]) != "not measured"
    return not is_measured and variants is not None and not set(variants_of(entry)) <= set(variants)


def _why(entry: Mapping[str, Any], run: BoardRun, num_open: int) -> str:
    """Why a claim is open: what was not measured, how many pairs there are, and what ended the run."""
    if departures.verdict_word(entry["verdict"]) == "not measured":
        said = entry.get("sentence", "").removeprefix("Not measured: ").rstrip(".")
        return f"not measured here{': ' if said else ''}{said}"
    comparison = entry["comparison"]
    num_pairs, num_lost = comparison.get("n") or 0, comparison.get("num_failed") or 0
    lost = f"{num_lost} of {num_pairs + num_lost} pairs are lost to runs that diverged" if num_lost else ""
    if not num_pairs:
        return f"diverged: {lost}" if lost else "no pair was measured"
    if claims.is_of_the_clock(entry.get("metric", "")):
        return f"{text.counted(num_pairs, 'pair')}: seconds have one for each program that was timed"
    ended = re.match(r"Open, since (max_\w+) is ([\d.]+)", str(run.summary.get("until", "")))
    stopped = f"stopped at --{ended[1]}={ended[2]}" if ended else "too few seeds"
    parts = [f"{stopped}: {text.counted(num_pairs, 'pair')}", _more(entry, run, num_open), lost]
    return "; ".join(filter(None, parts))


def _more(entry: Mapping[str, Any], run: BoardRun, num_open: int) -> str:
    """How many more pairs would probably answer an open claim, where the run's curves can be read."""
    if run.training is None or not set(variants_of(entry)) <= set(run.training.variants):
        return ""
    margin = float(entry["comparison"].get("margin") or 0.0)
    claim = Claim(entry["id"], entry["text"], entry["metric"], entry["left"], entry["direction"], entry["right"])
    both = claims.sides(claim, run.training.variants)
    if both is None:
        return ""
    more = looks.pairs_to_go(both, margin, entry["comparison"].get("direction", ">"), num_open)
    return looks.foreseen(int(entry["n"]), more)
