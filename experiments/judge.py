"""Verdicts on anybody's numbers: a CSV file of runs, from PyTorch, Keras or a spreadsheet, judged as our own runs are.

python -m experiments.judge RESULTS.csv [--claim="wide > narrow in accuracy"] [--matters=0.002] [--workdir=results/judge]

RESULTS.csv has the columns variant, seed and one for each metric, or variant, seed, metric, value. Runs are
paired by seed: the sides of a claim need the same seeds; nan says that a run diverged. Without --claim every two variants are compared by every metric.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnistlab.analysis import claims, history, tables
from mnistlab.analysis.claims import Checked, Claim, Sides
from mnistlab.analysis.tables import Runs
from mnistlab.comparison import workdirs
from mnistlab.errors import UserError
from mnistlab.report import answer, figures, page, sections, text

from . import common

NAME = "judge"
FLAGS = flags.FLAGS


def main(path: str) -> None:
    """Reads the table, judges it, and only then writes."""
    runs = tables.read(Path(path))
    matters = FLAGS.matters
    asked = [tables.claim(words, runs, number, matters) for number, words in enumerate(FLAGS.claim, start=1)]
    asked = asked or tables.every_claim(runs, matters)
    if not asked:
        raise UserError(f"{path} has no metric that two variants share; expected one")
    metrics = dict.fromkeys(one.metric for one in asked)
    if matters is not None and len(metrics) > 1:
        raise UserError(
            f"--matters is one number, but the claims are about {', '.join(metrics)}; give a --claim in one of them"
        )
    sides = tables.sides(asked, runs)
    for claim, values in zip(asked, sides, strict=True):
        _check_unit(claim, values)
    checked = claims.check_sides(asked, sides)
    table = sections.claims_table(checked)
    print(text.text_table(table.header, table.rows))
    print("\n".join(["", *(f"({item.claim.id}) {item.sentence}" for item in checked)]))
    folder = common.workdir(NAME)
    with workdirs.made_anew(folder, NAME):
        _write(folder, path, runs, checked, sides)
    print(f"\nreport: {folder / 'report.html'}")


def _check_unit(claim: Claim, values: Sides) -> None:
    """Checks that an accuracy is a share of 1, for which the smallest difference that matters is known."""
    largest = float(np.nanmax(np.abs(np.concatenate(values)), initial=0.0))
    if claim.matters is None and claim.margin and largest > 1:
        raise UserError(
            f"{claim.metric} reaches {largest:g}: {claim.margin:g}, which matters by default, is meant of shares of 1; "
            "give --matters in the unit of your numbers"
        )


def _write(folder: Path, path: str, runs: Runs, checked: Sequence[Checked], sides: Sequence[Sides]) -> None:
    draw = page.draw_into(folder / "figures")
    name = Path(path).name
    num_seeds = len({seed for of in runs.values.values() for by_seed in of.values() for seed in by_seed})
    pictures: list[page.Block] = []
    for metric in dict.fromkeys(item.claim.metric for item in checked):
        by_variant = {
            variant: np.array(list(of[metric].values())) for variant, of in runs.values.items() if metric in of
        }
        caption = f"{metric} of every run, one dot each; below them the mean with its 95 % interval."
        pictures.append(draw(figures.seeds(by_variant, metric), f"runs_{len(pictures) + 1}", caption))
    blocks: list[page.Block] = [
        page.Answer(answer.of_judged(checked)),
        page.Text(f"From the table `{name}`: {len(runs.values)} variants, {num_seeds} seeds, paired by seed."),
        page.Heading("Claims"),
        *sections.claim_cards(checked, text.Unit),  # the table's own unit, whatever the name says
        *sections.quotable(checked, f"{name}, {num_seeds} seeds"),
        *sections.looks_picture(checked, sides, draw),
        page.Heading("Runs"),
        *pictures,
        *page.how_to_repeat(common.command()),
    ]
    summary = {
        "experiment": NAME,
        "protocol": "other people's numbers",
        "departures": [],
        "data": {"name": name},
        "device": "none",
        "n_seeds": num_seeds,
        "variants": {
            variant: {"metrics": {key: history.summarize(np.array(list(by.values()))) for key, by in of.items()}}
            for variant, of in runs.values.items()
        },
        "claims": [item.to_dict() for item in checked],
        "seconds": {},
    }
    identity = {"experiment": NAME, "table": name, "claims": [item.claim.text for item in checked]}
    title = f"{name}, judged"
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_multi_string("claim", [], 'What is claimed, such as "wide > narrow in accuracy"; may be repeated.')
    flags.DEFINE_float(
        "matters", None, "The smallest difference that would matter; default: 0.002 of an accuracy, else any.", 0.0
    )


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RESULTS.csv",), needs_jax=False)
