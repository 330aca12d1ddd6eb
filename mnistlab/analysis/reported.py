"""What the five sources reported: end results and curves, as data."""

import csv
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "source_numbers"
CURVE_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def results(experiment: str) -> dict[str, dict[str, float]]:
    """variant -> metric -> the number that the source printed, for one experiment.

    >>> results("lenet_vs_dense")["lenet5"]["test_accuracy"]
    0.9866
    """
    values: dict[str, dict[str, float]] = {}
    with (_FOLDER / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                values.setdefault(row["variant"], {})[row["metric"]] = float(row["value"])
    return values


def curve(name: str) -> dict[str, np.ndarray]:
    """metric -> float64 [epochs], of the curve file `name`.

    >>> len(curve("mnist_lenet5_tanh")["val_accuracy"])
    20
    """
    with (_FOLDER / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {metric: np.array([float(row[metric]) for row in rows]) for metric in CURVE_METRICS}
