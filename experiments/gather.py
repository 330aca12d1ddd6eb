"""Joins the runs of a sweep, each of other seeds, into one: its verdicts are over all seeds.

python -m experiments.gather results/sweep/lenet_vs_dense [--workdir=results/lenet_vs_dense_gathered]

FOLDER holds the folders of runs, as launch/sweep.sh leaves them. What this leaves is a run to compare, power and scoreboard.
"""

import importlib
from pathlib import Path
from typing import Any

from mnistlab import files, sealed
from mnistlab.analysis import claims, departures, history
from mnistlab.analysis.claims import Checked
from mnistlab.comparison import identity, saved, workdirs
from mnistlab.comparison.saved import RunFolder
from mnistlab.errors import UserError, file_errors
from mnistlab.report import answer, figures, page, sections, text
from mnistlab.training.result import Result

from . import common

NAME = "gather"
define_flags = common.define_run_flags


def main(folder: str) -> None:
    """Reads all runs, joins them, and only then writes."""
    with file_errors(f"cannot read {folder}", "expected what launch/sweep.sh left"):
        paths = sorted(path.parent for path in Path(folder).glob("*/config.json"))
    if not paths:
        raise UserError(f"{folder} holds no folders of runs; expected what launch/sweep.sh left")
    found = [saved.read_run(path) for path in paths]
    results = saved.join_runs(found)
    name = found[0].summary["experiment"]
    module = importlib.import_module(f"{__package__}.{name}") if name in common.names() else None
    experiment = getattr(module, "EXPERIMENT", None)
    if experiment is None:
        raise UserError(f"{paths[0]} is of {name!r}, which is no experiment of this release that trains")
    departed = departures.of_summary(found[0].summary)  # of all: they differ in their seeds alone
    checked = departures.of_changed_run(claims.check(experiment.claims, results), departed)
    table = sections.claims_table(checked, departed)
    seeds = sorted(seed for run in found for seed in run.seeds)
    print(f"{name}: {len(found)} runs, {len(seeds)} seeds\n\n{text.text_table(table.header, table.rows)}")
    target = common.workdir(f"{workdirs.folder_name(name, found[0].summary['protocol'])}_gathered")
    with workdirs.made_anew(target, NAME):
        title = departures.title(experiment.title, departed)
        said = answer.answer(checked, results, experiment.answered_by, departures=departed).sentence
        _write(target, page.Answer(said, experiment.question), title, found, results, checked)
    print(f"\nreport: {target / 'report.html'}")


def _write(
    target: Path,
    said: page.Answer,
    title: str,
    found: list[RunFolder],
    results: dict[str, Result],
    checked: list[Checked],
) -> None:
    draw = page.draw_into(target / "figures")
    first, seeds = found[0], sorted(seed for run in found for seed in run.seeds)
    departed = departures.of_summary(first.summary)
    variants: dict[str, Any] = {}
    for name, result in results.items():
        metrics = {metric: history.summarize(values) for metric, values in result.metrics.items()}
        variants[name] = first.summary["variants"][name] | {"metrics": metrics}
    summary = {name: first.summary[name] for name in ("experiment", "protocol", "data", "device")} | {
        "answer": said.text,
        "departures": list(departed),
        "n_seeds": len(seeds),
        "variants": variants,
        "claims": [item.to_dict() for item in checked],
        "seconds": {run.path.name: run.summary["seconds"] for run in found},
    }
    where = f"{first.summary['data']['name']}, {departures.protocol_of(first.summary)}, {len(seeds)} seeds"
    blocks: list[page.Block] = [
        said,
        *sections.notices(departed, results),
        page.Text(f"{len(found)} runs of {len(seeds)} seeds, joined from `{first.path.parent}`."),
        page.Heading("Claims"),
        *sections.claim_cards(checked),
        *sections.quotable(checked, where),
        page.Heading("Seeds"),
        sections.seeds_picture("test_accuracy", results, draw),
        *sections.difference_pictures(checked, results, draw),
        page.Heading("Learning curves"),
    ]
    for name, result in results.items():
        caption = f"{name}: training (running mean of the epoch) and validation."
        blocks.append(draw(figures.history({name: result.history}), f"history_{name}", caption))
    blocks += page.how_to_repeat(common.command())
    own = first.config["run"] | {"tool": NAME, "gathered": [str(run.path) for run in found]}
    by_variant = {
        history.variant_of(name, own["variants"]): [run.seed for run in result.runs] for name, result in results.items()
    }
    own = identity.with_seeds(own, by_variant)
    # First, so that what is there is never nobody's; data and devices are those on which it was trained.
    sealed.write(target / "config.json", first.config | {"run": own, "command": common.command()})
    files.write_atomic(target / "history.csv", history.to_csv(results))
    workdirs.write_findings(target, title, blocks, summary)


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("FOLDER",), needs_jax=False)
