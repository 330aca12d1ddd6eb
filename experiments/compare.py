"""Compares any number of runs, paired by seed, by any metric: each verdict with its evidence, and a sentence to quote.

python -m experiments.compare RUN_A [RUN_B ...] [--metric=test_accuracy] [--variant_a=dense] [--variant_b=lenet5] [--direction=">"]

The runs are folders that training experiments left. Each of the others is compared with the first, variant by variant where both
have it; of one run alone the other variants are compared with its first. Holm's correction is over all these comparisons.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from mnistlab.analysis import claims, departures, history
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import saved, workdirs
from mnistlab.comparison.saved import RunFolder
from mnistlab.errors import UserError
from mnistlab.report import figures, page, sections, text
from mnistlab.training.result import Result, padded

from . import common

NAME = "compare"
FLAGS = flags.FLAGS


class Side(NamedTuple):
    """A variant of a run, and what it is called."""

    run: RunFolder
    variant: str
    label: str

    @property
    def result(self) -> Result:
        """Its numbers."""
        return self.run.variants[self.variant]


Pair = tuple[Side, Side]  # A and B


def main(*folders: str) -> None:
    """Reads the runs, compares them, and only then writes."""
    read = [saved.read_run(Path(folder)) for folder in folders]
    runs = list({run.path.resolve(): run for run in read}.values())  # each folder once
    pairs = _pairs(runs)
    results: dict[str, Result] = {}
    questions = []
    for number, (a, b) in enumerate(pairs, start=1):
        results |= {a.label: a.result, b.label: b.result}
        for result in (a.result, b.result):
            saved.check_metric(result, FLAGS.metric)
        asked = f"{a.label} {FLAGS.direction} {b.label}"
        questions.append(Claim(str(number), asked, FLAGS.metric, a.label, FLAGS.direction, b.label, ours=True))
    checked = claims.check(questions, results)
    print("\n".join(f"{letter}: {_about(run)}" for letter, run in zip(_letters(runs), runs, strict=True)))
    for item in checked:
        table = sections.evidence_table([item])
        print(f"\n{text.text_table(table.header, table.rows)}\n\n{item.sentence}")
    folder = common.workdir(NAME)
    with workdirs.made_anew(folder, NAME):
        _write(folder, runs, pairs, results, checked)
    print(f"\nreport: {folder / 'report.html'}")


def _letters(runs: Sequence[RunFolder]) -> list[str]:
    return ["A", *("B" if len(runs) == 2 else f"B{number}" for number in range(1, len(runs)))]


def _pairs(runs: Sequence[RunFolder]) -> list[Pair]:
    """What is compared with what: as the flags name the variants, else all that can be."""
    first = runs[0]
    if len(runs) == 1:
        a = saved.choose_variant(first, FLAGS.variant_a or next(iter(first.variants)))
        others = [b for b in first.variants if b != a]
        if FLAGS.variant_b or not others:
            others = [saved.choose_variant(first, FLAGS.variant_b or a)]
        if others == [a]:
            raise UserError(f"A and B are the same: {a} of {first.path}; compare two variants or two runs")
        return [(Side(first, a, a), Side(first, b, b)) for b in others]
    names = [run.path.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run.path) for run in runs]
    return [
        (Side(first, a, f"{a} ({names[0]})"), Side(other, b, f"{b} ({name})"))
        for other, name in zip(runs[1:], names[1:], strict=True)
        for a, b in saved.pair_variants(first, other, FLAGS.variant_a, FLAGS.variant_b)
    ]


def _write(
    folder: Path,
    runs: Sequence[RunFolder],
    pairs: Sequence[Pair],
    results: Mapping[str, Result],
    checked: list[Checked],
) -> None:
    picture = page.draw_into(folder / "figures")
    metric = FLAGS.metric.replace("_", " ")
    where = " and ".join(dict.fromkeys(map(_about, runs)))
    lettered = zip(_letters(runs), runs, strict=True)
    blocks: list[page.Block] = [
        page.Text(" ".join(f"{letter}: `{run.path}`, {_about(run)}." for letter, run in lettered)),
        page.Text(f"Compared by {metric}, paired by the seeds that both have."),
        page.Heading("Claims"),
        sections.claims_table(checked),
        *sections.quotable(checked, where),
        page.Heading("What differs"),
        *_differing(pairs, checked),
        page.Heading("Seeds"),
        sections.seeds_picture(FLAGS.metric, results, picture),
        *sections.difference_pictures(checked, results, picture),
        page.Heading("Learning curves"),
    ]
    for item in checked:
        sides = {item.claim.left: results[item.claim.left], str(item.claim.right): results[str(item.claim.right)]}
        for quantity in ("accuracy", "loss"):
            blocks.append(picture(*_curves(sides, f"val_{quantity}", item.claim.id)))
        both = figures.history({name: result.history for name, result in sides.items()})
        caption = f"({item.claim.id}) Training (running mean of the epoch) and validation of both."
        blocks.append(page.Details("Training curves", [picture(both, f"history_{item.claim.id}", caption)]))
    blocks += page.how_to_repeat(common.command())
    identity = {"experiment": NAME, "runs": [str(run.path) for run in runs], "seeds": list(runs[0].seeds)}
    identity |= {"variants": [(a.variant, b.variant) for a, b in pairs]}
    identity |= {"metric": FLAGS.metric, "direction": FLAGS.direction}
    summary = {
        "experiment": NAME,
        "protocol": _shared(run.summary["protocol"] for run in runs),
        "departures": list(dict.fromkeys(change for run in runs for change in departures.of_summary(run.summary))),
        "data": _shared(run.summary["data"] for run in runs),
        "device": _shared(run.summary["device"] for run in runs),
        "n_seeds": len(runs[0].seeds),
        "variants": {
            name: {"metrics": {FLAGS.metric: history.summarize(history.metric(result, FLAGS.metric))}}
            for name, result in results.items()
        },
        "claims": [item.to_dict() for item in checked],
        "seconds": {},
    }
    title = f"{', '.join(run.path.resolve().name for run in runs)} compared by {metric}"
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)


def _about(run: RunFolder) -> str:
    return f"{run.summary['data']['name']}, {departures.protocol_of(run.summary)}, {text.seed_span(run.seeds)}"


def _shared(values: Iterable[Any]) -> Any:
    """What all values are, or the list of the different ones."""
    different: list[Any] = []
    for value in values:
        different += [] if value in different else [value]
    return different[0] if len(different) == 1 else different


def _differing(pairs: Sequence[Pair], checked: Sequence[Checked]) -> list[page.Block]:
    """What a difference may be owed to: a table a pair."""
    blocks: list[page.Block] = []
    for item, (a, b) in zip(checked, pairs, strict=True):
        rows = [
            (name, *(text.MISSING if value is None else str(value) for value in values))
            for name, *values in saved.differing_settings(a.run, a.variant, b.run, b.variant)
        ]
        caption = f"({item.claim.id}) What differs between {item.claim.left} and {item.claim.right}"
        empty = page.Text(f"({item.claim.id}) Nothing differs: the two should be equal.")
        blocks.append(page.Table(("setting", "A", "B"), rows, caption) if rows else empty)
    return blocks


def _curves(sides: Mapping[str, Result], metric: str, number: str) -> tuple[object, str, str]:
    """A metric of the history of both, on one pair of axes: (figure, name, caption)."""
    num_epochs = max(result.history[metric].shape[1] for result in sides.values())
    curves = {name: padded(result.history[metric], num_epochs).T for name, result in sides.items()}
    label = metric.replace("val_", "validation ")
    figure = figures.sweep(np.arange(1, num_epochs + 1), curves, "epoch", label, log_x=False)
    return figure, f"{metric}_{number}", f"({number}) {label.capitalize()} by epoch, mean over the seeds."


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_string("metric", "test_accuracy", "What is compared: test_loss, val_accuracy@1, overfitting_gap, ...")
    flags.DEFINE_string("variant_a", None, "The variant of the first run; may be left out where it is clear.")
    flags.DEFINE_string("variant_b", None, "The variant of the others.")
    flags.DEFINE_enum("direction", ">", [">", "<"], "The claim: A > B or A < B.")


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RUN...",), needs_jax=False)
