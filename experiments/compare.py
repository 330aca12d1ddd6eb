"""Compares any two runs, paired by seed, by any metric: the verdict with its evidence, and a sentence to quote.

python -m experiments.compare RUN_A RUN_B [--metric=test_accuracy] [--variant_a=dense] [--variant_b=lenet5] [--direction=">"]

RUN_A and RUN_B are folders that training experiments left; both may be the same folder. Without --variant_a and
--variant_b every variant that both hold is compared, and Holm's correction is over all of them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

from mnistlab.analysis import claims, departures, history
from mnistlab.analysis.claims import Checked, Claim
from mnistlab.comparison import saved, workdirs
from mnistlab.comparison.saved import RunFolder
from mnistlab.errors import UserError
from mnistlab.report import figures, page, sections, text
from mnistlab.training.result import Result

from . import common

NAME = "compare"
FLAGS = flags.FLAGS


def main(run_a: str, run_b: str) -> None:
    """Reads both runs, compares them, and only then writes."""
    a, b = saved.read_run(Path(run_a)), saved.read_run(Path(run_b))
    pairs = saved.pair_variants(a, b, FLAGS.variant_a, FLAGS.variant_b)
    results: dict[str, Result] = {}
    questions = []
    for number, (variant_a, variant_b) in enumerate(pairs, start=1):
        left, right = _labels(a, variant_a, b, variant_b)
        results |= {left: a.variants[variant_a], right: b.variants[variant_b]}
        for result in (results[left], results[right]):
            saved.check_metric(result, FLAGS.metric)
        asked = f"{left} {FLAGS.direction} {right}"
        questions.append(Claim(str(number), asked, FLAGS.metric, left, FLAGS.direction, right, ours=True))
    checked = claims.check(questions, results)
    print(f"A: {_about(a)}\nB: {_about(b)}")
    for item in checked:
        table = sections.evidence_table([item])
        print(f"\n{text.text_table(table.header, table.rows)}\n\n{item.sentence}")
    folder = common.workdir(NAME)
    with workdirs.made_anew(folder, NAME):
        _write(folder, a, b, pairs, results, checked)
    print(f"\nreport: {folder / 'report.html'}")


def _labels(a: RunFolder, variant_a: str, b: RunFolder, variant_b: str) -> tuple[str, str]:
    """What A and B are called: by their variants within one run, else with the folders where they do not tell."""
    if a.path.resolve() == b.path.resolve():
        if variant_a == variant_b:
            raise UserError(f"A and B are the same: {variant_a} of {a.path}; compare two variants or two runs")
        return variant_a, variant_b
    name_a, name_b = a.path.resolve().name, b.path.resolve().name
    if name_a == name_b:
        name_a, name_b = str(a.path), str(b.path)
    return f"{variant_a} ({name_a})", f"{variant_b} ({name_b})"


def _write(
    folder: Path,
    a: RunFolder,
    b: RunFolder,
    pairs: list[tuple[str, str]],
    results: Mapping[str, Result],
    checked: list[Checked],
) -> None:
    picture = page.draw_into(folder / "figures")
    metric = FLAGS.metric.replace("_", " ")
    where = " and ".join(dict.fromkeys(_about(run) for run in (a, b)))
    blocks: list[page.Block] = [
        page.Text(f"A: `{a.path}`, {_about(a)}. B: `{b.path}`, {_about(b)}."),
        page.Text(f"Compared by {metric}, paired by seed: {len(a.seeds)} seeds."),
        page.Heading("Claims"),
        sections.claims_table(checked),
        *sections.quotable(checked, where),
        page.Heading("What differs"),
        *_differing(a, b, pairs, checked),
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
    blocks += [page.Heading("How to repeat it"), page.Command(common.command())]
    identity = {"experiment": NAME, "runs": [str(a.path), str(b.path)], "seeds": list(a.seeds), "variants": pairs}
    identity |= {"metric": FLAGS.metric, "direction": FLAGS.direction}
    summary = {
        "experiment": NAME,
        "protocol": _both(a.summary["protocol"], b.summary["protocol"]),
        "departures": list(dict.fromkeys((*departures.of_summary(a.summary), *departures.of_summary(b.summary)))),
        "data": _both(a.summary["data"], b.summary["data"]),
        "device": _both(a.summary["device"], b.summary["device"]),
        "n_seeds": len(a.seeds),
        "variants": {
            name: {"metrics": {FLAGS.metric: history.summarize(history.metric(result, FLAGS.metric))}}
            for name, result in results.items()
        },
        "claims": [item.to_dict() for item in checked],
        "seconds": {},
    }
    title = f"{a.path.resolve().name} and {b.path.resolve().name} compared by {metric}"
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)


def _about(run: RunFolder) -> str:
    protocol = departures.protocol_words(run.summary["protocol"], departures.of_summary(run.summary))
    return f"{run.summary['data']['name']}, {protocol}, seeds {run.seeds[0]} to {run.seeds[-1]}"


def _both(left: object, right: object) -> object:
    return left if left == right else [left, right]


def _differing(a: RunFolder, b: RunFolder, pairs: list[tuple[str, str]], checked: list[Checked]) -> list[page.Block]:
    """What a difference may be owed to: a table a pair."""
    blocks: list[page.Block] = []
    for item, (variant_a, variant_b) in zip(checked, pairs, strict=True):
        rows = [
            (name, *(text.MISSING if value is None else str(value) for value in values))
            for name, *values in saved.differing_settings(a, variant_a, b, variant_b)
        ]
        caption = f"({item.claim.id}) What differs between {item.claim.left} and {item.claim.right}"
        empty = page.Text(f"({item.claim.id}) Nothing differs: the two should be equal.")
        blocks.append(page.Table(("setting", "A", "B"), rows, caption) if rows else empty)
    return blocks


def _curves(sides: Mapping[str, Result], metric: str, number: str) -> tuple[object, str, str]:
    """A metric of the history of both, on one pair of axes: (figure, name, caption)."""
    num_epochs = max(result.history[metric].shape[1] for result in sides.values())
    curves = {
        name: np.pad(
            result.history[metric], ((0, 0), (0, num_epochs - result.history[metric].shape[1])), constant_values=np.nan
        ).T
        for name, result in sides.items()
    }
    label = metric.replace("val_", "validation ")
    figure = figures.sweep(np.arange(1, num_epochs + 1), curves, "epoch", label, log_x=False)
    return figure, f"{metric}_{number}", f"({number}) {label.capitalize()} by epoch, mean over the seeds."


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_string("metric", "test_accuracy", "What is compared: test_loss, val_accuracy@1, overfitting_gap, ...")
    flags.DEFINE_string("variant_a", None, "The variant of RUN_A; may be left out where it is clear.")
    flags.DEFINE_string("variant_b", None, "The variant of RUN_B.")
    flags.DEFINE_enum("direction", ">", [">", "<"], "The claim: A > B or A < B.")


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RUN_A", "RUN_B"), needs_jax=False)
