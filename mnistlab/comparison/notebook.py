"""What a notebook shows of a run, and its numbers as a DataFrame."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mnistlab.analysis import departures, history, stats
from mnistlab.config import one_of
from mnistlab.errors import UserError
from mnistlab.report import text

if TYPE_CHECKING:
    import pandas

    from mnistlab.training.result import Result

SHOWN = ("test_accuracy", "test_loss", "val_accuracy")
ROWS = ("seed", "epoch")


class Summary(dict[str, Any]):
    """What summary.json holds; in a notebook it shows itself as tables."""

    def _repr_html_(self) -> str:
        return html_of(self)


def html_of(summary: Mapping[str, Any]) -> str:
    """A summary as two tables of HTML: the variants with their metrics, the claims with their verdicts."""
    names = [metric for metric in SHOWN if all(metric in entry["metrics"] for entry in summary["variants"].values())]
    rows = [
        (label, entry.get("params"), *(_mean_sd(entry["metrics"][metric]) for metric in names))
        for label, entry in summary["variants"].items()
    ]
    protocol = departures.protocol_of(summary)
    header = ("variant", "parameters", *(metric.replace("_", " ") for metric in names))
    about = f"{summary['experiment']}: {summary['data']['name']}, {protocol}, {summary['n_seeds']} seed(s)"
    claims = [
        (claim["id"], claim["text"], stats.named(claim["verdict"], claim["left"], str(claim["right"])))
        for claim in summary["claims"]
    ]
    return text.html_table(header, rows, about) + (text.html_table(("", "claim", "verdict"), claims) if claims else "")


def _mean_sd(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return text.MISSING
    return text.format_mean_sd(values["mean"], float("nan") if values["sd"] is None else values["sd"], values["n"])


def to_dataframe(results: Mapping[str, "Result"], rows: str) -> "pandas.DataFrame":
    """Results in long form: a row for each variant and seed with its metrics, or for each epoch of these.

    Raises:
      UserError: pandas is not installed, or other rows are asked for.
    """
    one_of("rows", rows, ROWS)
    try:
        import pandas
    except ImportError as error:
        raise UserError("a DataFrame needs pandas, which is not installed; pip install pandas") from error
    table: list[dict[str, Any]] = []
    for label, result in results.items():
        for number, run in enumerate(result.runs):
            about = {"variant": label, "seed": run.seed}
            if rows == "seed":
                table.append(about | {name: float(values[number]) for name, values in result.metrics.items()})
                continue
            for epoch in range(history.num_epochs(result)[number]):
                values = {name: float(curve[number, epoch]) for name, curve in result.history.items()}
                table.append(about | {"epoch": epoch + 1} | values)
    return pandas.DataFrame(table)
