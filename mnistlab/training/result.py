"""What training leaves in numbers, without weights: the same trained just now and read back from a folder.

Reading it back needs no JAX, nor does whoever judges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnistlab.config import TrainConfig

if TYPE_CHECKING:
    import jax


class Record(NamedTuple):
    """What one epoch showed."""

    train_loss: jax.Array  # float32 []: running mean over the epoch's own steps, as Keras prints it
    train_accuracy: jax.Array  # float32 []
    val_loss: jax.Array  # float32 []: after the epoch, over every validation example; NaN without any
    val_accuracy: jax.Array  # float32 []


class Run(NamedTuple):
    """One member of a population: a seed and the settings in which it differs from the config."""

    seed: int
    settings: dict[str, float]


def name_of(run: Run) -> str:
    """What a run is called among those of its variant.

    >>> name_of(Run(3, {"learning_rate": 0.1}))
    'seed_3_learning_rate=0.1'
    """
    return "_".join([f"seed_{run.seed}", *(f"{name}={float(value)!r}" for name, value in run.settings.items())])


class Result(NamedTuple):
    """The numbers of R runs of one config, the runs on the first axis of every array."""

    config: TrainConfig  # its dataset is the name of the one that was given
    runs: tuple[Run, ...]
    history: dict[str, np.ndarray]  # Record's fields, float32 [R, E]; NaN after a run has stopped
    metrics: dict[str, np.ndarray]  # float64 [R]; see trained.final_metrics
    seconds: dict[str, float]  # compile_seconds, train_seconds, evaluate_seconds: wall time of all populations
    epoch_seconds: np.ndarray  # float64 [R, E]: wall seconds of the epoch divided by the runs trained in it
    fingerprint: str = ""  # of the dataset that was given

    def __repr__(self) -> str:
        num_runs, num_epochs = self.epoch_seconds.shape
        accuracy = self.metrics.get("test_accuracy", np.array([np.nan]))
        mean = f", mean test accuracy {np.nanmean(accuracy):.4f}" if np.isfinite(accuracy).any() else ""
        return f"Result({self.config.dataset}: {num_runs} run(s), {num_epochs} epoch(s){mean})"


def padded(curve: np.ndarray, num_epochs: int) -> np.ndarray:
    """A curve [R, E] with NaN for what it lacks of `num_epochs`."""
    return np.pad(curve, ((0, 0), (0, num_epochs - curve.shape[1])), constant_values=np.nan)


def select(result: Result, numbers: Sequence[int]) -> Result:
    """The runs of a result at `numbers`."""
    index = np.asarray(numbers, np.int64)
    return result._replace(
        runs=tuple(result.runs[number] for number in numbers),
        history={name: values[index] for name, values in result.history.items()},
        metrics={name: values[index] for name, values in result.metrics.items()},
        epoch_seconds=result.epoch_seconds[index],
    )


def concatenate(results: Sequence[Result]) -> Result:
    """The runs of all `results`, which share a config, one after the other; seconds are added."""
    first = results[0]
    return Result(
        first.config,
        tuple(run for result in results for run in result.runs),
        {name: np.concatenate([result.history[name] for result in results]) for name in first.history},
        {name: np.concatenate([result.metrics[name] for result in results]) for name in first.metrics},
        {name: sum(result.seconds[name] for result in results) for name in first.seconds},
        np.concatenate([result.epoch_seconds for result in results]),
        first.fingerprint,
    )
