"""Results as rows: history.csv in long form, metrics by name, summaries of seeds."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab import files
from mnistlab.analysis import stats
from mnistlab.errors import UserError, meant
from mnistlab.training.result import Record, Result, Run

HEADER = ("variant", "seed", "epoch", *Record._fields, "seconds")


def to_csv(results: Mapping[str, Result]) -> str:
    """Every trained epoch of every run, one row each; `seconds` is wall time divided by the runs trained together."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for variant, result in results.items():
        for number, run in enumerate(result.runs):
            for epoch in range(result.epoch_seconds.shape[1]):
                seconds = result.epoch_seconds[number, epoch]
                if math.isfinite(seconds):
                    values = [f"{result.history[name][number, epoch]:.7g}" for name in Record._fields]
                    writer.writerow([variant, run.seed, epoch + 1, *values, f"{seconds:.4g}"])
    return text.getvalue()


class Curves(NamedTuple):
    """The curves of a variant in a history.csv."""

    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]  # metric or "seconds" -> float64 [seeds, epochs], NaN where a run was not trained


def from_csv(path: Path) -> dict[str, Curves]:
    """variant -> its curves in a history.csv.

    Raises:
      UserError: the file is missing, cut off or not a history.
    """
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path)))
        if tuple(reader.fieldnames or ()) != HEADER:
            raise ValueError("its header is another")
        rows = list(reader)
        table: dict[str, dict[int, dict[int, list[float]]]] = {}
        for row in rows:
            if None in row:
                raise ValueError(f"epoch {row['epoch']!r} of seed {row['seed']!r} has more cells than the header")
            values = [float(row[name]) for name in HEADER[3:]]
            epochs = table.setdefault(row["variant"], {}).setdefault(int(row["seed"]), {})
            if int(row["epoch"]) != len(epochs) + 1:
                raise ValueError(f"epoch {row['epoch']!r} of seed {row['seed']!r} follows epoch {len(epochs)}")
            if any(stats.LARGEST < abs(value) < math.inf for value in values):  # a diverged run may have an infinity
                raise ValueError(f"epoch {row['epoch']!r} of seed {row['seed']!r} has a number beyond {stats.LARGEST}")
            epochs[len(epochs) + 1] = values
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not a whole history.csv ({error!s:.200}); repeat its run's command, which writes it again"
        ) from error
    histories = {}
    for variant, seeds in table.items():
        num_epochs = max(max(epochs) for epochs in seeds.values())
        array = np.full((len(HEADER) - 3, len(seeds), num_epochs), np.nan)
        for number, epochs in enumerate(seeds.values()):
            for epoch, values in epochs.items():
                array[:, number, epoch - 1] = values
        histories[variant] = Curves(tuple(seeds), dict(zip(HEADER[3:], array, strict=True)))
    return histories


def by_settings(variant: str, runs: Sequence[Run]) -> dict[str, list[int]]:
    """The numbers of a sweep's runs by point of the grid: "dense learning_rate=0.001" -> its runs."""
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        words = [variant, *(f"{name}={float(value)!r}" for name, value in run.settings.items())]
        groups.setdefault(" ".join(words), []).append(number)
    return {variant: list(range(len(runs)))} if len(groups) == 1 else groups


def variant_of(label: str, names: Iterable[str]) -> str:
    """The variant of a label, which is its name, in a sweep with settings after it.

    >>> variant_of("my net learning_rate=0.1", ["my", "my net"])
    'my net'

    Raises:
      ValueError: it is of none of the variants.
    """
    found = [name for name in names if f"{label} ".startswith(f"{name} ")]
    if not found:
        raise ValueError(f"config.json has no variant {label!r:.100}")
    return max(found, key=len)


@np.errstate(invalid="ignore")
def metric(result: Result, name: str) -> np.ndarray:
    """A metric of every run, float64 [R], by name; NaN where a run has no such epoch, or diverged.

    final metrics          test_accuracy, overfitting_gap, ... (trained.final_metrics), train_seconds, epoch_seconds
    of the history         val_accuracy@1 (after epoch 1), lowest_epoch:val_loss (the epoch at which it is lowest),
                           highest:val_accuracy (the largest of any epoch),
                           range_after_20:val_accuracy (largest minus smallest after epoch 20),
                           change_after_20:train_accuracy (last minus that after epoch 20)
    differences            test_accuracy - val_accuracy

    Raises:
      UserError: no such metric.
    """
    if " - " in name:
        left, right = name.rsplit(" - ", 1)
        return metric(result, left) - metric(result, right)
    if name in result.metrics:
        return np.asarray(result.metrics[name], np.float64)
    if name == "train_seconds":
        return np.nansum(result.epoch_seconds, axis=1)
    if name == "epoch_seconds":
        return np.nanmedian(result.epoch_seconds, axis=1)
    if match := re.fullmatch(r"(\w+)@(\d+)", name):
        values = _history(result, match[1])
        epoch = int(match[2])
        return values[:, epoch - 1] if 1 <= epoch <= values.shape[1] else np.full(len(values), np.nan)
    if match := re.fullmatch(r"lowest_epoch:(\w+)", name):
        values = _history(result, match[1])
        lowest = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1) + 1.0
        return np.where(_whole(result, values), lowest, np.nan)
    if match := re.fullmatch(r"highest:(\w+)", name):
        values = _history(result, match[1])
        return np.where(_whole(result, values), np.fmax.reduce(values, axis=1), np.nan)
    if match := re.fullmatch(r"(range|change)_after_(\d+):(\w+)", name):
        values, epoch = _history(result, match[3]), int(match[2])
        first = 1 if match[1] == "change" else 0  # nothing is known of before the first epoch
        if not first <= epoch < values.shape[1]:
            return np.full(len(values), np.nan)
        if match[1] == "range":
            later = values[:, epoch:]
            span = np.fmax.reduce(later, axis=1) - np.fmin.reduce(later, axis=1)  # NaN where all are, without a warning
            return np.where(_whole(result, values), span, np.nan)
        is_whole = values.shape[1] >= result.config.num_epochs  # read back, a history ends where the last run stopped
        return np.where(is_whole, values[:, -1] - values[:, epoch - 1], np.nan)
    raise UserError(
        f"unknown metric {name!r}; {meant(name, result.metrics)}expected one of "
        f"{', '.join(result.metrics)}, train_seconds, epoch_seconds"
    )


def _history(result: Result, name: str) -> np.ndarray:
    if name not in result.history:
        near = meant(name, result.history)
        raise UserError(f"unknown metric {name!r}; {near}expected one of {', '.join(result.history)}")
    return np.asarray(result.history[name], np.float64)


def num_epochs(result: Result) -> np.ndarray:
    """int [R]: how many epochs each run was trained."""
    return np.isfinite(result.epoch_seconds).sum(axis=1)


def diverged(result: Result) -> np.ndarray:
    """bool [R]: which runs ended with a network that is not finite, and so have no metric."""
    return ~np.isfinite(result.metrics["test_accuracy"])


def _whole(result: Result, values: np.ndarray) -> np.ndarray:
    """bool [R]: whether `values` [R, E] are finite in every epoch that the run was trained, and there are some."""
    finite = np.isfinite(values)
    return finite.any(axis=1) & np.all(finite | ~np.isfinite(result.epoch_seconds), axis=1)


def summarize(values: np.ndarray) -> dict[str, Any]:
    """{"mean", "sd", "ci95", "n", "values", "num_failed"} of the finite values; numbers that do not exist are None.

    >>> summarize(np.array([1.0, 3.0, np.nan]))["num_failed"]
    1
    """
    finite = values[np.isfinite(values)]
    interval = stats.mean_interval(finite) if len(finite) > 1 else (math.nan, math.nan)
    return {
        "mean": plain(np.mean(finite)) if len(finite) else None,
        "sd": plain(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        "ci95": [plain(bound) for bound in interval],
        "n": len(finite),
        "num_failed": int(len(values) - len(finite)),
        "values": [plain(value) for value in values],
    }


def plain(value: Any) -> float | None:
    """A JSON number, None for what JSON has no number for."""
    return float(value) if math.isfinite(value) else None


def largest_deviation(result: Result, reported: Mapping[str, np.ndarray], name: str) -> tuple[float, int]:
    """(largest |mean over runs - reported|, its epoch) of a metric of the history, over the epochs both have.

    The mean is of the runs that have the epoch: trained so far, and finite. Where none has any, (0, 0).
    """
    values = _history(result, name)[:, : len(reported[name])]
    finite = np.isfinite(values)
    mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    deviation = np.where(finite.any(axis=0), np.abs(mean - reported[name][: values.shape[1]]), -1.0)
    epoch = int(np.argmax(deviation))
    return (float(deviation[epoch]), epoch + 1) if deviation[epoch] >= 0 else (0.0, 0)


METRICS: Sequence[str] = (
    "test_accuracy",
    "test_loss",
    "val_accuracy",
    "val_loss",
    "train_accuracy",
    "train_loss",
    "final_train_accuracy",
    "final_train_loss",
    "overfitting_gap",
    "num_epochs",
    "best_epoch",
    "train_seconds",
    "epoch_seconds",
)
"""What every summary.json holds of a variant."""
