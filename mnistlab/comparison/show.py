"""A run on the terminal, from what it left: its table, its claims in sentences, and where the rest is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnistlab.analysis import departures
from mnistlab.comparison import outputs, saved
from mnistlab.report import page, sections, text


def lines(path: Path) -> list[str]:
    """What a run, or a tool that judged runs, left in `path`: the table and the sentences that it ended with, and more.

    Raises:
      UserError: nothing is there, it is not finished or damaged.
    """
    summary = saved.read_summary(path)
    if (path / "history.csv").exists():
        run = saved.read_run(path)
        shown = outputs.Shown(run.variants, summary["protocol"], departures.of_summary(summary))
        about = [_about(run)]
        about += [departures.notice(shown.departures)] if shown.departures else []
        table = outputs.result_table(summary["experiment"], shown)
        diverged = sections.diverged(run.variants)
        repeat = [f"repeat: {run.config['command']}"] if run.config.get("command") else []
    else:
        about, table, diverged, repeat = [summary["experiment"]], _metrics_table(summary), "", []
    return [
        *about,
        *(("", table.as_text()) if table.rows else ()),
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


def _about(run: saved.RunFolder) -> str:
    protocol, seeds = departures.protocol_words(run.summary["protocol"], ()), text.seed_span(run.seeds)
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
