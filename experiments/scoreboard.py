"""All comparisons at a glance: reported against ours, inside or outside, and the verdict on every claim.

python -m experiments.scoreboard [--seeds=8] [--quick] [--norun] [--results=docs/results.md --learned=docs/learned.md]

Reads what lies in results/<experiment> and results/<experiment>_controlled, runs what is missing there, and writes one
page: how many claims hold and which are open, every verdict with what it took, and reported against ours.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from absl import flags

from mnistlab import files
from mnistlab.analysis import departures, reported, stats
from mnistlab.comparison import learned, peer_hours, quirks, saved, spec, verdict_tables, verdicts, workdirs
from mnistlab.comparison.peer_hours import Bench
from mnistlab.comparison.quirks import Cost
from mnistlab.comparison.spec import Experiment
from mnistlab.comparison.verdicts import BoardRun, Judged, Key
from mnistlab.errors import UserError, file_errors
from mnistlab.report import figures, page, text

from . import common
from .cli import process
from .cli.flags import usable

EXPERIMENTS = {
    "lenet_vs_dense": ("--variants=all",),
    "keras_vs_scratch": (),
    "matmul_devices": (),
    "jacobian_eigen": (),
    "lenet5_adadelta": (),
    "cnn_variants": (),
    "backprop_by_hand": (),
    "fashion_mlp": (),
    "fashion_lenet_regularizers": (),
    "lenet5_at_its_best": ("--seeds=16",),
    "small_budgets": ("--seeds=16",),
    "small_budgets_fashion": ("--seeds=16",),
}
"""name -> flags of its full run."""
OURS = ("lenet5_at_its_best", "small_budgets", "small_budgets_fashion")  # no source reported anything
AIMS = (
    ("lenet5_at_its_best", "f"),
    *(("small_budgets", id_) for id_ in "abc"),
    ("small_budgets_fashion", "a"),
)
"""(comparison of our own, its claim that states what was aimed at)."""
QUICK = ("--limit_examples=2000", "--epochs=2", "--seeds=2")
METRICS = ("test_accuracy", "test_loss")
START, END = "<!-- tables of the scoreboard -->", "<!-- end -->"

_OWN_FLAGS = ("bench", "learned", "progress", "quick", "results", "run", "runs", "workdir")
_FLAGS = ("seeds", "seed", "data_dir", "compile_cache", "limit_examples", "epochs")


class Board(NamedTuple):
    """All that is known of the claims."""

    runs: Mapping[Key, BoardRun]
    absent: Sequence[Key]  # runs that there are not
    found: Sequence[Judged]  # of every experiment under every protocol
    costs: Sequence[Cost]  # of the sources' quirks
    bench: Bench | None


def main() -> None:
    """Runs what is missing, then writes the board."""
    known = {*_FLAGS, *_OWN_FLAGS}
    unheeded = next((name for name in flags.FLAGS if flags.FLAGS[name].present and name not in known), None)
    if unheeded is not None:
        raise UserError(
            f"scoreboard does not pass {unheeded} on; give it to the comparison: mnistlab run NAME --{unheeded}=..."
        )
    quick = flags.FLAGS.quick
    bench = peer_hours.read(usable("bench", flags.FLAGS.bench)) if flags.FLAGS.bench else None
    lessons = usable("learned", flags.FLAGS.learned) if flags.FLAGS.learned else None
    if lessons is not None and not flags.FLAGS.results:
        raise UserError("learned is given without results, to which its links lead; give both")
    folder = common.workdir("quick/scoreboard" if quick else "scoreboard")
    results = usable("results", flags.FLAGS.results) if flags.FLAGS.results else None
    runs_folder = usable("runs", flags.FLAGS.runs) if flags.FLAGS.runs else folder.parent
    with workdirs.locked(folder):
        workdirs.holds(folder, "scoreboard")
        summaries, failures = _collected(runs_folder, QUICK if quick else ())
        places = {key: runs_folder / workdirs.folder_name(*key) for key in summaries}
        board = _write(folder, summaries, failures, places, bench)
        if results is not None:
            write_into(results, (folder / "scoreboard.md").read_text())
        if lessons is not None and results is not None:
            files.write_atomic(lessons, learned_page(board, os.path.relpath(results, lessons.parent)))
        if failures:
            raise UserError("; ".join(failures))


def _collected(folder: Path, quick: Sequence[str]) -> tuple[dict[Key, dict[str, Any]], list[str]]:
    """The summaries of all runs in `folder`, those among them that were missing and could be run; and what failed.

    Raises:
      UserError: there are none.
    """
    summaries, failures = {}, []
    for name, own in EXPERIMENTS.items():
        for protocol in spec.PROTOCOLS[name in OURS :]:
            workdir = folder / workdirs.folder_name(name, protocol)
            summary = _read(workdir, name, protocol)
            if summary is None and flags.FLAGS.run:
                failures += _run(name, protocol, workdir, (*own, *quick))
                summary = _read(workdir, name, protocol)
            if summary is not None:
                summaries[name, protocol] = summary
    if not summaries:
        raise UserError(f"nothing was run yet in {folder}; leave --norun out, or point --runs at the folder of runs")
    return summaries, failures


def _run(name: str, protocol: str, workdir: Path, extra: tuple[str, ...]) -> list[str]:
    passed = [f"--{flag}={flags.FLAGS[flag].value}" for flag in _FLAGS if flags.FLAGS[flag].present]
    given = {flag.split("=")[0] for flag in passed}
    command = [sys.executable, "-m", f"{__package__}.{name}", f"--protocol={protocol}", f"--workdir={workdir}", *passed]
    command += [flag for flag in extra if flag.split("=")[0] not in given]
    print(f"\n== {name}, {protocol}: {' '.join(command[1:])}", flush=True)
    with subprocess.Popen(command) as child:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.wait()  # it ends its epoch and keeps it
            raise
    if status in process.STATUS_OF_SIGNAL.values():  # stopped, not failed
        sys.exit(status)
    return [] if status == 0 else [f"{name} ({protocol}) ended with status {status}"]


def _read(workdir: Path, name: str, protocol: str) -> dict[str, Any] | None:
    """The summary in `workdir`, which must be of this experiment and protocol: a folder can have any name."""
    with file_errors(f"cannot read {workdir}", "point --runs at the folder of runs"):
        there = (workdir / "summary.json").exists()
    if not there:
        return None
    summary = saved.read_summary(workdir, "of an experiment")
    found = summary["experiment"], summary["protocol"]
    if found != (name, protocol):
        raise UserError(
            f"{workdir} holds {found[0]!r:.80}, protocol {found[1]!r:.80}, and not {name}, {protocol}; give it the "
            "name of what it holds"
        )
    return summary


def _write(
    folder: Path,
    summaries: Mapping[Key, dict[str, Any]],
    failures: Sequence[str],
    places: Mapping[Key, Path],
    bench: Bench | None = None,
) -> Board:
    """Writes page, summary and the tables in Markdown."""
    board = board_of(summaries, places, bench)
    departed = {key: run.departures for key, run in board.runs.items() if run.departures}
    tables, forest = _values({key: summary for key, summary in summaries.items() if key not in departed})
    changed = _changed_table({key: summaries[key] for key in departed}, departed)
    reports = {key: place / "report.html" for key, place in places.items()}
    pages = {key: quote(os.path.relpath(report, folder)) for key, report in reports.items() if report.exists()}
    blocks: list[page.Block] = [
        page.Answer(_answer(board.found)),
        *_notices(len(summaries), len(departed), failures),
        *_standing(board, pages),
        page.Heading("Claims"),
        verdict_tables.claims(board.found, board.runs, pages, bench),
        page.Heading("Runs"),
        _index(summaries, pages),
        verdict_tables.took(board.runs, pages, bench),
        *([verdict_tables.ratios(board.runs, bench)] if bench else []),
    ]
    blocks += _beside_reported(folder, tables, forest) if tables else []
    blocks += [page.Heading("Changed runs"), *changed] if changed else []
    markdown = _markdown(board, [*tables, *changed])
    print("\n\n".join(block.as_text() for block in blocks if isinstance(block, page.Table)))
    files.write_atomic(folder / "scoreboard.md", markdown)
    identity = {"experiment": "scoreboard", "runs": sorted("/".join(key) for key in summaries)}
    title = "Scoreboard: five documents, reproduced and asked again"
    title += f" – {len(departed)} of {len(summaries)} are changed runs" if departed else ""
    summary = _summary(summaries, departed, failures)
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)
    print(f"\nreport: {folder / 'report.html'}")
    return board


def board_of(summaries: Mapping[Key, dict[str, Any]], places: Mapping[Key, Path], bench: Bench | None) -> Board:
    """How every claim stands, those of runs that there are not among them."""
    runs = {key: verdicts.read(places[key], summary) for key, summary in summaries.items()}
    found: list[Judged] = []
    absent: list[Key] = []
    for name in EXPERIMENTS:
        experiment = _experiment(name)
        for protocol in spec.PROTOCOLS[name in OURS :]:
            variants = experiment.under(protocol) if experiment else None
            if (name, protocol) in runs:
                found += verdicts.judged(
                    (name, protocol), runs[name, protocol], variants if experiment and experiment.claims else None
                )
                continue
            absent.append((name, protocol))
            if experiment is not None:
                found += verdicts.not_run((name, protocol), experiment.claims, variants or ())
    return Board(runs, absent, found, quirks.costs(runs), bench)


def _experiment(name: str) -> Experiment | None:
    """The comparison as a value; None of those that train nothing."""
    found = getattr(importlib.import_module(f"{__package__}.{name}"), "EXPERIMENT", None)
    return found if isinstance(found, Experiment) else None


def learned_page(board: Board, results: str) -> str:
    """docs/learned.md; its links lead to sections of the Markdown file `results`."""
    complete = {key: run.summary for key, run in board.runs.items() if not run.departures}
    where = [row[-1] for table in _values(complete)[0] for row in table.rows]
    inside = where.count("inside"), where.count("inside") + where.count("outside")
    return learned.page(learned.Board(board.found, board.runs, board.costs, inside, results))


def _standing(board: Board, addresses: verdict_tables.Addresses) -> list[page.Block]:
    """How many claims stand how, which are open, what our own aims came to, and what the quirks cost."""
    still_open = verdict_tables.open_claims(board.found, board.absent, addresses)
    claims = [(name, id_, experiment.claims) for name, id_ in AIMS if (experiment := _experiment(name))]
    aims = [((name, "controlled"), one) for name, id_, own in claims for one in own if one.id == id_]
    return [
        page.Heading("How the claims stand"),
        verdict_tables.counts(board.found),
        *([still_open] if still_open else []),
        page.Heading("Our own aims"),
        verdict_tables.aims(aims, board.runs, addresses),
        page.Heading("What the quirks cost"),
        verdict_tables.costs(board.costs, addresses),
    ]


def _markdown(board: Board, values: Sequence[page.Table]) -> str:
    """All tables, with a section for every run to which the others link."""
    sections = {key: f"#{workdirs.folder_name(*key)}" for key in board.runs}
    took: list[page.Block] = [
        page.Heading("What the runs took"),
        verdict_tables.took(board.runs, sections, board.bench),
    ]
    took += [verdict_tables.ratios(board.runs, board.bench)] if board.bench else []
    blocks: list[page.Block] = [*_standing(board, sections), *took]
    parts = []
    for block in blocks:
        parts.append(f"## {block.text}" if isinstance(block, page.Heading) else _in_markdown(block))
    meaning = verdict_tables.meaning(board.bench)
    parts += ["## Every verdict, run by run", f"{text.capital(meaning)}."]
    for key, run in board.runs.items():
        own = verdict_tables.claims_of([one for one in board.found if one.key == key], run, board.bench)
        device, seeds = run.summary["device"], text.counted(run.summary["n_seeds"], "seed")
        parts += [
            f"### {workdirs.folder_name(*key)}",
            run.summary.get("answer", ""),
            f"Protocol {key[1]}, {seeds}, on {device}:",
        ]
        parts += [f"    {run.command}" if run.command else "", _in_markdown(own)]
    parts += ["## Reported and ours", *map(_in_markdown, values)] if values else []
    return "\n\n".join(filter(None, parts)) + "\n"


def _in_markdown(block: page.Block) -> str:
    assert isinstance(block, page.Table)
    caption = f"**{block.caption}**\n\n" if block.caption else ""
    return caption + text.markdown_table(block.header, block.rows)


def _summary(
    summaries: Mapping[Key, dict[str, Any]], departed: Mapping[Key, tuple[str, ...]], failures: Sequence[str]
) -> dict[str, Any]:
    return {
        "experiment": "scoreboard",
        "protocol": "both",
        "departures": [f"{'/'.join(key)}: {change}" for key, changes in departed.items() for change in changes],
        "data": None,
        "device": sorted({summary["device"] for summary in summaries.values()}),
        "n_seeds": max(summary["n_seeds"] for summary in summaries.values()),
        "variants": {f"{n}/{p}/{v}": e for (n, p), s in summaries.items() for v, e in s["variants"].items()},
        "claims": [
            {"experiment": n, "protocol": p, **claim} for (n, p), s in summaries.items() for claim in s["claims"]
        ],
        "seconds": {f"{n}/{p}": verdicts.seconds_of(s) or 0.0 for (n, p), s in summaries.items()},
        "failures": list(failures),
    }


def write_into(path: Path, tables: str) -> None:
    """Puts the tables between the two marks of a Markdown file, or at its end; what stands around them stays.

    Raises:
      UserError: the file cannot be read or written.
    """
    with file_errors(f"cannot read {path}", "choose another file"):
        earlier = files.read_text(path) if path.exists() else ""
    if START in earlier and END not in earlier:
        raise UserError(f"{path} has the mark {START!r} without {END!r} behind it; put that back")
    before, _, rest = earlier.partition(START)
    after = rest.partition(END)[2].strip()
    parts = (before.rstrip(), START, tables.strip(), END, after)
    files.write_atomic(path, "\n\n".join(filter(None, parts)) + "\n")


def _answer(found: Sequence[Judged]) -> str:
    """How the sources' claims stand, under each protocol."""
    said = []
    for protocol in spec.PROTOCOLS:
        some = [one for one in found if one.protocol == protocol and not one.ours and one.state != "changed run"]
        words = departures.tally(one.verdict for one in some if one.state != "not run")
        if words:
            said.append(f"under the {protocol} protocol, {words}")
    if not said:
        return "No run is of its protocol: no claim of a source is judged."
    return f"How the sources' claims stand: {'; '.join(said)}."


def _index(summaries: Mapping[Key, dict[str, Any]], pages: Mapping[Key, str]) -> page.Cards:
    """The runs with what they answer, and links to their pages."""
    cards = []
    for (name, protocol), summary in summaries.items():
        label = f"protocol {protocol}, {text.counted(summary['n_seeds'], 'seed')}"
        said = departures.tally(claim["verdict"] for claim in summary["claims"])
        facts = [("claims", said)] if said else []
        cards.append(page.Card(name, label, summary.get("answer", ""), facts, pages.get((name, protocol), "")))
    return page.Cards(cards)


def _beside_reported(
    folder: Path, tables: Sequence[page.Table], forest: Mapping[str, Sequence[figures.ForestRow]]
) -> list[page.Block]:
    """Tables and figures of the runs that were made as the sources' were."""
    inside = (
        "`inside`: the source's one number lies in the 95 % prediction interval of a single run of ours (Student's t)."
    )
    draw = page.draw_into(folder / "figures")
    blocks: list[page.Block] = [page.Text(inside), page.Heading("Reported and ours"), *tables]
    for metric, rows in forest.items():
        if rows:
            label = metric.replace("_", " ")
            alt = f"{label}, reported and ours"
            blocks.append(draw(figures.forest(rows, label), f"forest_{metric}", f"Reported and ours: {label}.", alt))
    return blocks


def _notices(num_runs: int, num_departed: int, failures: Sequence[str]) -> list[page.Block]:
    said = "depart from their protocols: they stand in a table of their own and say nothing of the sources."
    blocks: list[page.Block] = []
    if num_departed:
        blocks.append(page.Text(f"{num_departed} of {num_runs} runs {said}", notice=True))
    if failures:
        blocks.append(page.Text("Not complete: " + "; ".join(failures) + "."))
    return blocks


def _values(
    summaries: Mapping[Key, Mapping[str, Any]],
) -> tuple[list[page.Table], dict[str, list[figures.ForestRow]]]:
    """A table for each protocol, and the rows of the figures."""
    rows: dict[str, list[tuple[object, ...]]] = {protocol: [] for protocol in spec.PROTOCOLS}
    forest: dict[str, list[figures.ForestRow]] = {metric: [] for metric in METRICS}
    for (name, protocol), summary in summaries.items():
        theirs = reported.results(name) if protocol == "reported" else {}
        for variant, entry in summary["variants"].items():
            for metric in METRICS:
                ours = entry["metrics"].get(metric)
                if ours is None:
                    continue
                number = theirs.get(variant, {}).get(metric)
                cells = _cells(ours)
                label = (name, variant, metric.removeprefix("test_"))
                if protocol == "controlled":
                    rows[protocol].append((*label, *cells))
                    continue
                values = np.array(ours["values"], np.float64)
                finite = values[np.isfinite(values)]
                inside = None if number is None else stats.inside(finite, number)
                where = {True: "inside", False: "outside", None: text.MISSING}[inside]
                rows[protocol].append((*label, text.format_value(metric, number), *cells, where))
                if number is not None and len(finite):
                    intervals = stats.mean_interval(finite), stats.prediction_interval(finite)
                    forest[metric].append(figures.ForestRow(f"{name}: {variant}", ours["mean"], *intervals, number))
    common_header = ("experiment", "variant", "test")
    headers = {
        "reported": (*common_header, "reported", "ours: mean [95 %]", "n", "reported is"),
        "controlled": (*common_header, "ours: mean [95 %]", "n"),
    }
    tables = [page.Table(headers[name], rows[name], f"Protocol {name}") for name in rows if rows[name]]
    return tables, forest


def _changed_table(
    summaries: Mapping[tuple[str, str], dict[str, Any]], departed: Mapping[tuple[str, str], tuple[str, ...]]
) -> list[page.Table]:
    """What changed runs measured, with what they changed and without what was reported."""
    rows = [
        (name, protocol, variant, metric.removeprefix("test_"), *_cells(entry["metrics"][metric]), changed)
        for (name, protocol), summary in summaries.items()
        for changed in ["; ".join(departed[name, protocol])]
        for variant, entry in summary["variants"].items()
        for metric in METRICS
        if metric in entry["metrics"]
    ]
    header = ("experiment", "protocol", "variant", "test", "ours: mean [95 %]", "n", "changed run")
    return [page.Table(header, rows, "Changed runs, which cannot be compared with the sources")] if rows else []


def _cells(ours: Mapping[str, Any]) -> tuple[str, str]:
    """Mean with its interval, and how many seeds; those that diverged are named."""
    lost = f", {ours['num_failed']} diverged" if ours.get("num_failed") else ""
    return text.format_summary(ours), f"{ours['n']}{lost}"


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    common.define_training_flags()
    flags.DEFINE_bool("quick", False, "Everything on a subset, in a few minutes, labelled as such.")
    flags.DEFINE_bool("run", True, "--norun only reads what is there.")
    flags.DEFINE_string("results", None, "A Markdown file to put the tables into, such as docs/results.md.")
    flags.DEFINE_string(
        "learned", None, "A Markdown file for what we learned, such as docs/learned.md; with --results."
    )
    flags.DEFINE_string("bench", None, "summary.json of experiments.bench: adds what PyTorch would have taken.")
    flags.DEFINE_string("runs", None, "Folder of the runs; default the folder around --workdir.")


if __name__ == "__main__":
    define_flags()
    common.enter(main)
