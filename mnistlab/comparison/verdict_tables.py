"""Tables of the verdicts of many runs: how many, the open ones, what each took, and what our own aims came to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnistlab.analysis import departures, stats
from mnistlab.analysis.claims import Claim
from mnistlab.comparison import peer_hours, verdicts
from mnistlab.comparison.peer_hours import Bench
from mnistlab.comparison.quirks import Cost
from mnistlab.comparison.verdicts import BoardRun, Judged, Key
from mnistlab.report import page, text
from mnistlab.report.text import Link

Addresses = Mapping[Key, str]
"""Of what is shown of a run; a run without one is not linked."""

HOURS = "hours: compiling, training and evaluating what the claim is about"
PYTORCH = (
    "PyTorch, hours: our hours of training, divided by the ratio of the benchmark; without its start and its evaluation"
)


def hours(seconds: float | None) -> str:
    """Seconds as hours.

    >>> hours(5400.0), hours(2.0), hours(None)
    ('1.5', '< 0.001', '–')
    """
    if seconds is None:
        return text.MISSING
    return "< 0.001" if 0 < seconds < 3.6 else text.format_significant(seconds / 3600, 2)


def meaning(bench: Bench | None) -> str:
    """What the columns of the claims are."""
    return f"seeds: the pairs behind a verdict; {HOURS}{f'; {PYTORCH}' if bench else ''}"


def counts(found: Sequence[Judged]) -> page.Table:
    """How many claims stand how: the sources' and our own, under each protocol; states that none has are left out."""
    states = [state for state, number in verdicts.tally(found).items() if number]
    rows = []
    for ours, whose in ((False, "the sources' claims"), (True, "our own questions")):
        for protocol in dict.fromkeys(one.protocol for one in found):
            some = [one for one in found if (one.ours, one.protocol) == (ours, protocol)]
            if some:
                tally = verdicts.tally(some)
                rows.append((whose, protocol, *(tally[state] for state in states), len(some)))
    header = ("whose", "protocol", *states, "in all")
    return page.Table(header, rows, "How many claims hold, and how many do not")


def open_claims(found: Iterable[Judged], absent: Iterable[Key], addresses: Addresses) -> page.Table | None:
    """Every open claim and why, a line each; None where all are answered.

    Args:
      absent: the runs that there are not; a line each.
    """
    rows: list[tuple[object, ...]] = []
    missing: dict[Key, list[str]] = {key: [] for key in absent}
    for one in found:
        whose = "ours" if one.ours else "source"
        if one.state == "open":
            rows.append((_linked(one.key, addresses), one.protocol, f"({one.id}) {one.text}", whose, one.why))
        elif one.state == "not run":
            missing[one.key].append(f"({one.id})")
    for key, ids in missing.items():
        why = "not run" if ids else "not run; its claims are not counted above"
        rows.append((*key, " ".join(ids) or text.MISSING, text.MISSING, why))
    header = ("experiment", "protocol", "claim", "whose", "why it is open")
    return page.Table(header, rows, "Open claims, and why they are open") if rows else None


def claims(
    found: Sequence[Judged], runs: Mapping[Key, BoardRun], addresses: Addresses, bench: Bench | None
) -> page.Table:
    """Every claim that was put to a run, those under both protocols one below the other; a link to the run of each."""
    place = {claim: number for number, claim in enumerate(dict.fromkeys((one.experiment, one.id) for one in found))}
    rows = [
        (_linked(one.key, addresses), words, one.protocol, *rest)
        for one in sorted(found, key=lambda one: place[one.experiment, one.id])
        if one.key in runs
        for words, *rest in [_claim_row(one, runs[one.key], bench)]
    ]
    header = ("experiment", "claim", "protocol", *_claim_header(bench)[1:])
    return page.Table(header, rows, f"Claims and their verdicts under both protocols; {meaning(bench)}")


def claims_of(found: Iterable[Judged], run: BoardRun, bench: Bench | None) -> page.Table:
    """The claims that were put to one run."""
    rows = [_claim_row(one, run, bench) for one in found]
    return page.Table(_claim_header(bench), rows)


def _claim_row(one: Judged, run: BoardRun, bench: Bench | None) -> tuple[str, ...]:
    words = f"({one.id}) {one.text}" + (" (our question)" if one.ours else "")
    num_pairs = text.MISSING if one.num_pairs is None else str(one.num_pairs)
    peers = [hours(_all_of(bench, run, verdicts.variants_of(one.evidence)))] if bench else []
    return words, one.verdict, _difference(one.evidence), num_pairs, hours(one.seconds), *peers


def _claim_header(bench: Bench | None) -> tuple[str, ...]:
    return ("claim", "verdict", "difference [95 %]", "seeds", "hours", *(["PyTorch, hours"] if bench else []))


def took(runs: Mapping[Key, BoardRun], addresses: Addresses, bench: Bench | None) -> page.Table:
    """What each run took, the whole last, and what PyTorch would have."""
    rows: list[tuple[object, ...]] = []
    timed = []
    for key, run in runs.items():
        seconds = verdicts.seconds_of(run.summary)
        training = verdicts.seconds_of(run.summary, part="train_seconds")
        theirs = _all_of(bench, run, tuple(run.training.variants) if run.training else ())
        timed.append((seconds, training, theirs))
        peers = [hours(theirs)] if bench else []
        seeds, device = run.summary["n_seeds"], run.summary["device"]
        rows.append((_linked(key, addresses), key[1], seeds, hours(seconds), hours(training), *peers, device))
    known = [each for each in timed if each[2] is not None]
    for words, some in (("all of them", timed), *([("those with a number for PyTorch", known)] if known else [])):
        whole = [sum(one[column] or 0 for one in some) for column in range(3)]
        theirs = whole[2] if len(some) == len(known) else None
        rows.append((words, "", text.MISSING, *map(hours, whole[:2]), *([hours(theirs)] if bench else []), ""))
    header = ("experiment", "protocol", "seeds", "hours", "of which training")
    caption = "What each run took: compiling, training and evaluating"
    if bench:
        return page.Table((*header, "PyTorch, hours", "device"), rows, f"{caption}; {PYTORCH}")
    return page.Table((*header, "device"), rows, caption)


def ratios(runs: Mapping[Key, BoardRun], bench: Bench) -> page.Table:
    """From which measurement PyTorch's hours of each network come."""
    caption = (
        f"From which workload of the benchmark ({bench.device}) PyTorch's hours are: ours as a multiple of PyTorch's"
    )
    return page.Table(("network", "batch size", "from"), peer_hours.sources(bench, runs.values()), caption)


def aims(asked: Sequence[tuple[Key, Claim]], runs: Mapping[Key, BoardRun], addresses: Addresses) -> page.Table:
    """What our own comparisons aimed at and what came out.

    Args:
      asked: (run, the claim that states the aim).
    """
    rows: list[tuple[object, ...]] = []
    for key, claim in asked:
        run, name, aim = runs.get(key), claim.left, float(claim.right)
        entry = next((one for one in run.summary["claims"] if one["id"] == claim.id), None) if run else None
        if run is None or entry is None or name not in run.summary["variants"]:
            missing = (text.MISSING,) * 2
            rows.append((key[0], name, text.MISSING, f"{100 * aim:.2f} %", *missing, "not run", *missing))
            continue
        variant = run.summary["variants"][name]
        ours = variant["metrics"]["test_accuracy"]
        parameters = variant.get("total_parameters", variant.get("params"))
        lost = f", {ours['num_failed']} diverged" if ours.get("num_failed") else ""
        optimism = run.summary.get("best_minus_last_epoch", {}).get(name)
        rows.append(
            (
                _linked(key, addresses),
                name,
                text.format_value("parameters", parameters),
                f"{100 * aim:.2f} %",
                text.format_summary(ours),
                f"{ours['n']}{lost}",
                _reached(ours["mean"], aim, run.departures),
                stats.named(entry["verdict"], entry["left"], str(entry["right"])),
                text.format_summary(optimism, signed=True) if optimism else text.MISSING,
            )
        )
    header = (
        "experiment", "variant", "parameters", "aim", "mean at the last epoch [95 %]", "seeds", "reached",
        "verdict on “above the aim”", "what the best epoch of one run would have added [95 %]",
    )  # fmt: skip
    caption = "Our own aims for test accuracy; what the best epoch would add is measured in validation"
    return page.Table(header, rows, caption)


def costs(found: Iterable[Cost], addresses: Addresses) -> page.Table:
    """What each quirk costs in test accuracy."""
    rows = [
        (
            cost.quirk.words,
            difference(cost),
            cost.verdict,
            str(cost.num_pairs) if cost.num_pairs else text.MISSING,
            _linked(cost.keys[0], addresses) if cost.keys else cost.quirk.experiment,
            f"claim {cost.quirk.claim}" if cost.quirk.claim else "controlled against reported",
        )
        for cost in found
    ]
    header = ("quirk", "what it costs [95 %]", "mending it helps", "seeds", "experiment", "by")
    return page.Table(header, rows, "What the quirks cost in test accuracy, paired by seed")


def difference(cost: Cost) -> str:
    """Mean and interval of a quirk's cost."""
    if cost.difference is None:
        return text.MISSING
    low, high = cost.interval or (float("nan"), float("nan"))
    return text.format_interval(cost.difference, low, high, signed=True)


def _reached(mean: float | None, aim: float, departed: Sequence[str]) -> str:
    if departed:
        return departures.brief(departed)
    if mean is None:
        return "no: every seed diverged"
    return "yes" if mean >= aim else f"no: {100 * (aim - mean):.2g} points short"


def _all_of(bench: Bench | None, run: BoardRun, names: Sequence[str]) -> float | None:
    known = run.training.variants if run.training else {}
    return peer_hours.seconds_of(bench, run, names) if bench and names and set(names) <= set(known) else None


def _difference(entry: Mapping[str, Any]) -> str:
    if entry.get("delta") is None or not entry.get("ci95") or None in entry["ci95"]:
        return text.MISSING
    return text.format_interval(entry["delta"], *entry["ci95"], signed=True)


def _linked(key: Key, addresses: Addresses) -> str | Link:
    return Link(key[0], addresses[key]) if addresses.get(key) else key[0]
