"""All comparisons at a glance: reported against ours, inside or outside, and the verdict on every claim.

python -m experiments.scoreboard [--seeds=8] [--quick] [--norun]

Reads what lies in results/<experiment> and results/<experiment>_controlled, runs what is missing there, and writes one
page and one table.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from absl import flags

from mnistlab import files
from mnistlab.analysis import departures, reported, stats
from mnistlab.comparison import saved, spec, workdirs
from mnistlab.errors import UserError, file_errors
from mnistlab.report import figures, page, text

from . import common
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
QUICK = ("--limit_examples=2000", "--epochs=2", "--seeds=2")
METRICS = ("test_accuracy", "test_loss")
START, END = "<!-- tables of the scoreboard -->", "<!-- end -->"

_FLAGS = ("seeds", "seed", "data_dir", "compile_cache", "limit_examples", "epochs")


def main() -> None:
    """Runs what is missing, then writes the board."""
    quick = flags.FLAGS.quick
    folder = common.workdir("quick/scoreboard" if quick else "scoreboard")
    results = usable("results", flags.FLAGS.results) if flags.FLAGS.results else None
    runs_folder = usable("runs", flags.FLAGS.runs) if flags.FLAGS.runs else folder.parent
    with workdirs.locked(folder):
        summaries, failures, places = {}, [], {}
        for name, own in EXPERIMENTS.items():
            for protocol in spec.PROTOCOLS[name in OURS :]:
                workdir = runs_folder / (name if protocol == "reported" else f"{name}_{protocol}")
                summary = _read(workdir / "summary.json")
                if summary is None and flags.FLAGS.run:
                    failures += _run(name, protocol, workdir, (*own, *(QUICK if quick else ())))
                    summary = _read(workdir / "summary.json")
                if summary is not None:
                    summaries[name, protocol] = summary
                    places[name, protocol] = workdir
        if not summaries:
            raise UserError(
                f"nothing was run yet in {runs_folder}; leave --norun out, or point --runs at the folder of runs"
            )
        _write(folder, summaries, failures, places)
        if results is not None:
            write_into(results, (folder / "scoreboard.md").read_text())


def _run(name: str, protocol: str, workdir: Path, extra: tuple[str, ...]) -> list[str]:
    passed = [f"--{flag}={flags.FLAGS[flag].value}" for flag in _FLAGS if flags.FLAGS[flag].present]
    given = {flag.split("=")[0] for flag in passed}
    command = [sys.executable, "-m", f"{__package__}.{name}", f"--protocol={protocol}", f"--workdir={workdir}", *passed]
    command += [flag for flag in extra if flag.split("=")[0] not in given]
    print(f"\n== {name}, {protocol}: {' '.join(command[1:])}", flush=True)
    status = subprocess.run(command, check=False).returncode
    return [] if status == 0 else [f"{name} ({protocol}) ended with status {status}"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; point --runs at the folder of runs") from error
    return saved.read_summary(path.parent, "of an experiment") if there else None


def _write(
    folder: Path,
    summaries: Mapping[tuple[str, str], dict[str, Any]],
    failures: list[str],
    places: Mapping[tuple[str, str], Path],
) -> None:
    departed = {key: found for key, summary in summaries.items() if (found := departures.of_summary(summary))}
    tables, forest = _values({key: summary for key, summary in summaries.items() if key not in departed})
    changed = _changed_table({key: summaries[key] for key in departed}, departed)
    verdicts = _verdicts(summaries, departed)
    seconds = [
        (name, protocol, summary["n_seeds"], f"{_seconds(summary):.0f}", summary["device"])
        for (name, protocol), summary in summaries.items()
    ]
    blocks: list[page.Block] = [
        page.Answer(_answer(summaries, departed)),
        *_notices(len(summaries), len(departed), failures),
        page.Heading("Runs"),
        _index(folder, summaries, places),
    ]
    blocks += _beside_reported(folder, tables, forest) if tables else []
    blocks += [page.Heading("Changed runs"), *changed] if changed else []
    blocks += [
        page.Heading("Claims"),
        verdicts,
        page.Heading("Time"),
        page.Table(("experiment", "protocol", "seeds", "wall time, s", "device"), seconds, "What each run took"),
    ]
    markdown = []
    for table in (*tables, *changed, verdicts):
        print(f"\n{table.as_text()}")
        markdown.append(f"{table.caption}\n\n{text.markdown_table(table.header, table.rows)}\n")
    files.write_atomic(folder / "scoreboard.md", "\n".join(markdown))
    summary = {
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
        "seconds": {f"{n}/{p}": _seconds(s) for (n, p), s in summaries.items()},
        "failures": failures,
    }
    identity = {"experiment": "scoreboard", "runs": sorted("/".join(key) for key in summaries)}
    title = "Scoreboard: five homeworks, reproduced and asked again"
    title += f" – {len(departed)} of {len(summaries)} are changed runs" if departed else ""
    workdirs.leave(folder, identity=identity, command=common.command(), title=title, blocks=blocks, summary=summary)
    print(f"\nreport: {folder / 'report.html'}")
    if failures:
        raise UserError("; ".join(failures))


def write_into(path: Path, tables: str) -> None:
    """Puts the tables between the two marks of a Markdown file, or at its end; what stands around them stays.

    Raises:
      UserError: the file cannot be read or written.
    """
    with file_errors(f"cannot read {path}", "choose another file"):
        earlier = files.read_text(path) if path.exists() else ""
    before, _, rest = earlier.partition(START)
    after = rest.partition(END)[2].strip()
    parts = (before.rstrip(), START, tables.strip(), END, after)
    files.write_atomic(path, "\n\n".join(filter(None, parts)) + "\n")


def _answer(summaries: Mapping[tuple[str, str], dict[str, Any]], departed: Mapping[tuple[str, str], Any]) -> str:
    """How the claims stand, under each protocol."""
    said = []
    for protocol in spec.PROTOCOLS:
        verdicts = [
            claim["verdict"]
            for key, summary in summaries.items()
            if key[1] == protocol and key not in departed
            for claim in summary["claims"]
        ]
        if verdicts:
            said.append(f"under the {protocol} protocol, {departures.tally(verdicts)}")
    return f"How the claims stand: {'; '.join(said)}." if said else "No run is of its protocol: no claim is judged."


def _index(
    folder: Path, summaries: Mapping[tuple[str, str], dict[str, Any]], places: Mapping[tuple[str, str], Path]
) -> page.Cards:
    """The runs with what they answer, and links to their pages."""
    cards = []
    for (name, protocol), summary in summaries.items():
        label = f"protocol {protocol}, {text.counted(summary['n_seeds'], 'seed')}"
        place = places.get((name, protocol))
        link = quote(os.path.relpath(place / "report.html", folder)) if place else ""
        verdicts = departures.tally(claim["verdict"] for claim in summary["claims"])
        facts = [("claims", verdicts)] if verdicts else []
        cards.append(page.Card(name, label, summary.get("answer", ""), facts, link))
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
    summaries: Mapping[tuple[str, str], dict[str, Any]],
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


def _verdicts(
    summaries: Mapping[tuple[str, str], dict[str, Any]], departed: Mapping[tuple[str, str], tuple[str, ...]]
) -> page.Table:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (name, protocol), summary in summaries.items():
        for claim in summary["claims"]:
            row = rows.setdefault(
                (name, claim["id"]), {"text": claim["text"] + (" (our question)" if claim.get("ours") else "")}
            )
            verdict, difference = _verdict_cells(claim)
            if departed.get((name, protocol)) == (departures.UNKNOWN,):  # its verdict may judge the source
                verdict = f"{departures.UNKNOWN}: no verdict"
            row[protocol] = verdict, difference
    missing = (text.MISSING, text.MISSING)
    lines = [
        (name, id_, row["text"], *row.get("reported", missing), *row.get("controlled", missing))
        for (name, id_), row in rows.items()
    ]
    header = ("experiment", "", "claim", "reported", "difference [95 %]", "controlled", "difference [95 %]")
    return page.Table(header, lines, "Claims and their verdicts under both protocols")


def _verdict_cells(claim: Mapping[str, Any]) -> tuple[str, str]:
    if claim.get("delta") is None or not claim.get("ci95") or None in claim["ci95"]:
        return claim["verdict"], text.MISSING
    return claim["verdict"], text.format_interval(claim["delta"], *claim["ci95"], signed=True)


def _seconds(summary: Mapping[str, Any]) -> float:
    """Wall seconds of a run: the sum of what its summary lists."""

    def total(value: Any) -> float:
        return sum(map(total, value.values())) if isinstance(value, dict) else float(value)

    return total(summary["seconds"])


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    common.define_training_flags()
    flags.DEFINE_bool("quick", False, "Everything on a subset, in a few minutes, labelled as such.")
    flags.DEFINE_bool("run", True, "--norun only reads what is there.")
    flags.DEFINE_string("results", None, "A Markdown file to put the tables into, such as docs/results.md.")
    flags.DEFINE_string("runs", None, "Folder of the runs; default the folder around --workdir.")


if __name__ == "__main__":
    define_flags()
    common.enter(main)
