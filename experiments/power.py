"""How many seeds would resolve a difference, from a run of a few seeds.

python -m experiments.power RUN [--claim=a | --variant_a=lenet5 --variant_b=dense --metric=test_accuracy] [--difference=0.001,0.002]

RUN is the folder of a training experiment with at least 2 seeds. Without --claim and variants every claim that the run
measured is looked at; without --difference, the difference that was observed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from mnistlab.analysis import claims, departures, stats
from mnistlab.analysis.power import num_pairs_needed, smallest_resolvable_difference, standardised
from mnistlab.analysis.sequential import expected_num_pairs
from mnistlab.comparison import saved, workdirs
from mnistlab.comparison.saved import RunFolder
from mnistlab.errors import UserError
from mnistlab.report import figures, page, text

from . import common

NAME = "power"
POWER = 0.8
MOST_PAIRS = 256  # simulated, or more where the pilot has more
FLAGS = flags.FLAGS


class Pilot(NamedTuple):
    """The paired differences of a claim in the run at hand."""

    label: str
    metric: str
    differences: np.ndarray  # float64 [n], finite
    num_failed: int  # pairs left out because a side diverged
    direction: str = ">"  # "=" where the claim is that no difference matters
    margin: float = 0.0  # the smallest difference that would matter


class Need(NamedTuple):
    """How many pairs find a difference with probability POWER."""

    difference: float
    observed: bool  # it is the pilot's own mean difference
    pairs: int | None  # at the pilot's sd; None where no number is enough
    fewest: int | None  # at the low and the high end of the sd's 95 % interval
    most: int | None
    pairs_holm: int | None  # where the claim must pass Holm as the least clear of all


def need(differences: np.ndarray, difference: float | None = None, num_claims: int = 1) -> Need:
    """The pairs needed for a true mean `difference` (None: the observed one), given a pilot's float [n].

    From the power of the paired t test, which looks once; never fewer than a sign-flip test needs to speak at all. A
    verdict, which may be looked at at any time, takes more: see `until_table`.
    """
    wanted = float(np.mean(differences)) if difference is None else difference
    sd = float(np.std(differences, ddof=1))
    low, high = stats.sd_interval(differences)

    def pairs(sd: float, alpha: float) -> int | None:
        if not standardised(wanted, sd):
            return None
        return max(num_pairs_needed(sd, wanted, alpha, POWER), stats.fewest_pairs(alpha))

    ours, fewest, most = (pairs(value, stats.ALPHA) for value in (sd, low, high))
    return Need(wanted, difference is None, ours, fewest, most, pairs(sd, stats.ALPHA / num_claims))


def pilots(run: RunFolder, claim: str | None, variant_a: str | None, variant_b: str | None, metric: str) -> list[Pilot]:
    """What is asked about: one claim, two variants, or every claim that was measured.

    Raises:
      UserError: no such claim, variant or metric; a claim together with variants; nothing with two finite pairs.
    """
    if claim is not None and (variant_a or variant_b):
        raise UserError("both --claim and variants are given; expected one of them")
    if variant_a or variant_b:
        name_a, name_b = saved.choose_variant(run, variant_a), saved.choose_variant(run, variant_b)
        saved.check_metric(run.variants[name_a], metric)
        found = [_pilot(f"{name_a} − {name_b}", run, name_a, name_b, metric)]
    else:
        known = {item["id"]: item for item in run.summary["claims"] if item.get("comparison")}
        if claim is not None and claim not in known:
            raise UserError(
                f"{run.path} has not measured a claim {claim!r}; expected one of {', '.join(known) or 'none'}"
            )
        if not known:
            raise UserError(f"{run.path} has measured no claim; give --variant_a, --variant_b and --metric")
        found = []
        for id_ in known if claim is None else [claim]:
            item = known[id_]
            right, measured = item["right"], item["comparison"]
            words = right if isinstance(right, str) else f"{right:g}"
            pilot = _pilot(f"({id_}) {item['left']} − {words}", run, item["left"], right, item["metric"])
            asked = {"direction": measured.get("direction", ">"), "margin": measured.get("margin", 0.0)}
            found.append(pilot._replace(**asked))
    usable = [pilot for pilot in found if len(pilot.differences) > 1]
    if not usable:
        raise UserError(f"{run.path} has fewer than 2 finite pairs, from which no spread is known; run more --seeds")
    return usable


def _pilot(label: str, run: RunFolder, left: str, right: str | float, metric: str) -> Pilot:
    for name in (left, right) if isinstance(right, str) else (left,):
        saved.check_metric(run.variants[saved.choose_variant(run, name)], metric)
    against = run.variants[right] if isinstance(right, str) else right
    differences = stats.paired_differences(*claims.measured(run.variants[left], against, metric))
    finite = np.isfinite(differences)
    return Pilot(label, metric, differences[finite], int((~finite).sum()))


def needs_table(asked: Sequence[Pilot], needs: Sequence[Sequence[Need]], num_claims: int) -> page.Table:
    """A row for each pilot and difference."""
    rows: list[tuple[str, ...]] = []
    for pilot, its_needs in zip(asked, needs, strict=True):
        sd, n = float(np.std(pilot.differences, ddof=1)), len(pilot.differences)
        low, high = stats.sd_interval(pilot.differences)
        spread = f"{_short(sd)} [{_short(low)}, {_short(high)}]"
        resolvable = _short(smallest_resolvable_difference(pilot.differences))
        for item in its_needs:
            wanted = f"{_short(item.difference)}{', observed' if item.observed else ''}"
            span = f"{_pairs(item.fewest)} to {_pairs(item.most)}"
            lost = f", {pilot.num_failed} diverged" if pilot.num_failed else ""
            words = pilot.metric.replace("_", " ")
            row = (pilot.label, words, f"{n}{lost}", spread, resolvable, wanted, _pairs(item.pairs), span)
            rows.append((*row, _pairs(item.pairs_holm)))
    header = (
        "difference of",
        "in",
        "pilot pairs",
        "sd [95 %]",
        "they resolve",
        "to resolve",
        "pairs needed",
        "between",
    )
    holm = f"Holm, {text.counted(num_claims, 'claim')}"
    caption = (
        "Pairs (seeds) with which a t test that looks once finds a true difference four times in five, at alpha 0.05; "
        "between: over the sd's interval"
    )
    return page.Table((*header, holm), rows, caption)


def until_table(asked: Sequence[Pilot], wanted: Sequence[float], num_claims: int) -> page.Table:
    """Seeds until a claim is answered however often one looks, by simulation: a row for each pilot and difference."""
    rows = []
    for pilot in asked:
        most, observed = max(MOST_PAIRS, len(pilot.differences) + 1), float(np.mean(pilot.differences))
        margin = _short(pilot.margin) if pilot.margin else "any"
        for mean in (*wanted, None):
            differences = pilot.differences + (0.0 if mean is None else mean - observed)
            alone, corrected = (
                expected_num_pairs(differences, pilot.margin, alpha, most, pilot.direction)
                for alpha in (stats.ALPHA, stats.ALPHA / num_claims)
            )
            truth = f"{_short(observed)}, observed" if mean is None else _short(mean)
            found = [_until(pairs, one.share, most) for one in (alone, corrected) for pairs in (one.median, one.most)]
            about = (pilot.label, pilot.metric.replace("_", " "), f"{len(pilot.differences)}", margin, truth)
            rows.append((*about, *found))
    holm = f"Holm, {text.counted(num_claims, 'claim')}"
    header = (
        "difference of",
        "in",
        "pilot pairs",
        "what matters",
        "if it is",
        "half the time",
        "four in five",
        f"{holm}: half",
        "four",
    )
    caption = (
        "Pairs (seeds) until a verdict, the pilot's among them, looking after each: 200 simulated continuations of "
        "the pilot, moved so that its mean is the difference named"
    )
    return page.Table(header, rows, caption)


def _until(pairs: int, share: float, most: int) -> str:
    return f"{pairs}" if pairs < most else f"over {most} (answered by then: {share:.0%})"


def remark(asked: Sequence[Pilot]) -> str:
    """How far the numbers can be trusted."""
    n = min(len(pilot.differences) for pilot in asked)
    low, high = stats.sd_interval(_of_unit_sd(n))
    return (
        f"The standard deviation of {n} differences is itself uncertain: the true one lies between {low:.2f} and "
        f"{high:.2f} times it (95 %, chi-square, if differences are normal), so the pairs needed between about "
        f"{low**2:.2f} and {high**2:.1f} times theirs. An observed difference is uncertain too, and one "
        "that was looked at because it is large is likely to be smaller. These pairs are those of a "
        f"test that looks once, at a number of pairs chosen beforehand; fewer than {stats.fewest_pairs()} pairs never "
        "resolve anything."
    )


def _short(value: float) -> str:
    return text.format_significant(value, 2)


def _pairs(pairs: int | None) -> str:
    if pairs is None:
        return "no number"
    return f"{pairs:,}" if pairs < 1e6 else "over a million"


def curve(pilot: Pilot, num_pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The smallest difference that n pairs resolve, each float [len(num_pairs)]: at the pilot's sd, its low and high."""
    sd = float(np.std(pilot.differences, ddof=1))
    unit = np.array([smallest_resolvable_difference(_of_unit_sd(int(n)), power=POWER) for n in num_pairs])
    low, high = stats.sd_interval(pilot.differences)
    return unit * sd, unit * low, unit * high


def _of_unit_sd(n: int) -> np.ndarray:
    values = np.arange(n, dtype=np.float64)
    return values / np.std(values, ddof=1)


def main(folder: str) -> None:
    """Reads the run, says how many pairs it takes, and only then writes."""
    run = saved.read_run(Path(folder))
    wanted = _wanted()
    asked = pilots(run, FLAGS.claim, FLAGS.variant_a, FLAGS.variant_b, FLAGS.metric)
    num_claims = max(1, sum(bool(item.get("comparison")) for item in run.summary["claims"]))
    needs = [[need(pilot.differences, item, num_claims) for item in (*wanted, None)] for pilot in asked]
    table = needs_table(asked, needs, num_claims)
    until = until_table(asked, wanted, num_claims)
    for one in (until, table):
        print(f"{one.as_text()}\n")
    print(remark(asked))
    workdir = common.workdir(NAME)
    with workdirs.made_anew(workdir, NAME):
        _write(workdir, run, asked, needs, (until, table), wanted)
    print(f"\nreport: {workdir / 'report.html'}")


def _wanted() -> list[float]:
    try:
        wanted = [float(number) for number in FLAGS.difference]
    except ValueError as error:
        raise UserError(
            f"difference is {','.join(FLAGS.difference)!r}; expected numbers such as 0.001,0.002"
        ) from error
    if not all(math.isfinite(value) and value != 0 for value in wanted):
        raise UserError(f"difference is {','.join(FLAGS.difference)!r}; expected finite numbers other than 0")
    return wanted


def _write(
    workdir: Path,
    run: RunFolder,
    asked: Sequence[Pilot],
    needs: Sequence[Sequence[Need]],
    tables: Sequence[page.Table],
    wanted: Sequence[float],
) -> None:
    picture = page.draw_into(workdir / "figures")
    blocks: list[page.Block] = [
        page.Text(f"From the run in `{run.path}`, {departures.protocol_of(run.summary)}, {len(run.seeds)} seeds."),
        page.Heading("Pairs needed"),
        *tables,
        page.Text(remark(asked)),
        page.Heading("Power curves"),
    ]
    most = max([item.pairs or 0 for its_needs in needs for item in its_needs])
    num_pairs = np.unique(np.geomspace(stats.fewest_pairs(), min(max(64, 2 * most), 1024), 25).astype(int))
    for number, pilot in enumerate(asked, start=1):
        lines = {pilot.label: curve(pilot, num_pairs)}
        lines |= {f"difference {abs(value):g}": (np.full(len(num_pairs), abs(value)),) * 3 for value in wanted}
        words = pilot.metric.replace("_", " ")
        figure = figures.lines(
            num_pairs,
            lines,
            "pairs (seeds)",
            f"smallest difference in {words}",
            log="xy" if any((values > 0).any() for triple in lines.values() for values in triple) else "x",
            band="95 % of the pilot's sd",
        )
        caption = f"{pilot.label}, {words}: the smallest true difference that so many pairs find four times in five."
        blocks.append(picture(figure, f"power_{number}", caption, caption))
    blocks += page.how_to_repeat(common.command())
    rows = [
        {"label": pilot.label, "metric": pilot.metric, "n": len(pilot.differences), "num_failed": pilot.num_failed}
        | {"sd": float(np.std(pilot.differences, ddof=1)), "sd_ci95": list(stats.sd_interval(pilot.differences))}
        | {"needs": [item._asdict() for item in its_needs]}
        for pilot, its_needs in zip(asked, needs, strict=True)
    ]
    summary = {name: run.summary[name] for name in ("protocol", "data", "device")}
    summary["departures"] = list(departures.of_summary(run.summary))
    summary |= {
        "experiment": NAME,
        "n_seeds": len(run.seeds),
        "variants": {},
        "claims": [],
        "seconds": {},
        "power": rows,
    }
    identity = {"experiment": NAME, "runs": [str(run.path)], "seeds": list(run.seeds), "differences": list(wanted)}
    identity |= {"asked": [(pilot.label, pilot.metric) for pilot in asked]}
    title = f"How many seeds: {run.path.resolve().name}"
    workdirs.leave(workdir, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_string("claim", None, "The id of a claim of the run, such as a.")
    flags.DEFINE_string("variant_a", None, "Instead of --claim: the first variant.")
    flags.DEFINE_string("variant_b", None, "Instead of --claim: the second variant.")
    flags.DEFINE_string("metric", "test_accuracy", "With variants: in what they differ.")
    flags.DEFINE_list("difference", [], "True differences to resolve, beside the observed one.")


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RUN",), needs_jax=False)
