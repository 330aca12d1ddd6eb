"""A run on the terminal, from what it left: its table, its claims in sentences, and where the rest is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnistlab.analysis import departures
from mnistlab.comparison import outputs, saved
from mnistlab.report import page, sections, text
from mnistlab.training.result import Result


class Shown(NamedTuple):
    """What outputs.Measured asks for, of a run read back."""

    results: Mapping[str, Result]
    protocol: str
    departures: Sequence[str]


def lines(path: Path) -> list[str]:
    """What a run, or a tool that judged runs, left in `path`: the table and the sentences that it ended with, and more.

    Raises:
      UserError: nothing is there, it is not finished or damaged.
    """
    summary = saved.read_summary(path)
    if (path / "history.csv").exists():
        run = saved.read_run(path)
        shown = Shown(run.variants, summary["protocol"], departures.of_summary(summary))
        about = [_about(run, shown)]
        about += [departures.notice(shown.departures)] if shown.departures else []
        table = outputs.result_table(summary["experiment"], shown)
        diverged = sections.diverged(run.variants)
        repeat = [f"repeat: {run.config['command']}"] if run.config.get("command") else []
    else:
        about, table, diverged, repeat = [summary["experiment"]], _metrics_table(summary), "", []
    return [
        *about,
        *(("", table.caption, text.text_table(table.header, table.rows)) if table.rows else ()),
        *([diverged] if diverged else []),
        *(["", summary["answer"]] if isinstance(summary.get("answer"), str) else []),
        *(["\nClaims"] if summary["claims"] else []),
        *(
            f"({claim['id']}) {claim['text']}\n    {claim.get('sentence', claim['verdict'])}"
            for claim in summary["claims"]
        ),
        "",
        *repeat,
        f"report: {path / 'report.html'}",
    ]


def _about(run: saved.RunFolder, shown: Shown) -> str:
    protocol = departures.protocol_words(shown.protocol, ())
    seeds = f"seeds {run.seeds[0]} to {run.seeds[-1]}" if len(run.seeds) > 1 else f"seed {run.seeds[0]}"
    return f"{run.summary['experiment']}: {run.summary['data']['name']}, {protocol}, {seeds}, {run.summary['device']}"


def _metrics_table(summary: Mapping[str, Any]) -> page.Table:
    """The metrics that a summary holds, of what trained nothing."""
    rows = [
        (name, metric.replace("_", " "), _value(values))
        for name, entry in summary["variants"].items()
        for metric, values in entry["metrics"].items()
    ]
    return page.Table(("variant", "metric", "ours"), rows, "Ours")


def _value(values: Mapping[str, Any]) -> str:
    return text.MISSING if values["mean"] is None else f"{text.format_significant(values['mean'])} (n={values['n']})"
