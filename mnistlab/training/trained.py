"""The result of training with its weights, which of them are finite, and the metrics of the final ones."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab.training import losses, result
from mnistlab.training.losses import Sums
from mnistlab.training.result import Result
from mnistlab.training.step import TrainState

PREFIXES = {"train": "final_train", "val": "val", "test": "test"}  # of the metrics over each part


class Trained(NamedTuple):
    """R runs; every array is a host array with the runs on its first axis."""

    result: Result
    state: TrainState  # the final weights: of the last epoch, or with early stopping the restored best; opt_state is ()
    best: TrainState  # the weights of the best validation epoch


def select(trained: Trained, numbers: Sequence[int]) -> Trained:
    """The runs at `numbers`."""
    index = np.asarray(numbers, np.int64)
    state, best = jax.tree.map(lambda leaf: leaf[index], (trained.state, trained.best))
    return Trained(result.select(trained.result, numbers), state, best)


def concatenate(parts: Sequence[Trained]) -> Trained:
    """The runs of all `parts`, which share a config, one after the other."""
    weights = [(part.state, part.best) for part in parts]
    state, best = jax.tree.map(lambda *leaves: np.concatenate(leaves), *weights)
    return Trained(result.concatenate([part.result for part in parts]), state, best)


def finite_runs(tree: Any) -> np.ndarray:
    """bool [R]: whether all numbers of a run are finite; the leaves of `tree` have the runs on their first axis.

    >>> finite_runs({"kernel": np.array([[1.0, 2.0], [np.inf, 0.0]]), "step": np.array([7, 7])}).tolist()
    [True, False]
    """
    leaves = jax.tree.leaves(tree)
    floats = [np.asarray(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    of_each = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in floats]
    return np.logical_and.reduce([np.ones(len(leaves[0]), bool), *of_each])


def final_metrics(
    total: Mapping[str, Sums],
    history: Mapping[str, np.ndarray],
    num_epochs: np.ndarray,
    best_epoch: np.ndarray,
    finite: np.ndarray,
) -> dict[str, np.ndarray]:
    """Metrics of R runs from the sums over each part with the final weights, and from the history after int [R] epochs.

    train_loss and train_accuracy are the running means of the last epoch that was trained, as the sources report them;
    final_train_loss and final_train_accuracy are measured on the final weights, like val_* and test_*, and so is every
    metric of the user's own; overfitting_gap = final_train_accuracy - val_accuracy. All are NaN of a run that diverged:
    its final weights are not `finite` bool [R], a loss or logit over its examples is not, or no epoch's validation was
    (best_epoch float64 [R] is 0). Without validation examples the metrics that need them are NaN, and no more.
    """
    metrics: dict[str, np.ndarray] = {}
    for part, prefix in PREFIXES.items():
        with np.errstate(invalid="ignore"):  # no validation examples: NaN
            loss, accuracy = losses.means(total[part])
            own = {name: value / total[part].num_examples for name, value in total[part].metrics.items()}
        for name, value in {"loss": loss, "accuracy": accuracy, **own}.items():
            metrics[f"{prefix}_{name}"] = np.asarray(value)
    for name in ("train_loss", "train_accuracy"):
        metrics[name] = history[name][np.arange(len(num_epochs)), num_epochs - 1].astype(np.float64)
    metrics["overfitting_gap"] = metrics["final_train_accuracy"] - metrics["val_accuracy"]
    metrics |= {"num_epochs": num_epochs.astype(np.float64), "best_epoch": best_epoch}
    measured = [metrics[f"{prefix}_loss"] for part, prefix in PREFIXES.items() if np.all(total[part].num_examples > 0)]
    finite = np.logical_and.reduce([finite, best_epoch > 0, *map(np.isfinite, measured)])
    return {name: np.where(finite, values, np.nan) for name, values in metrics.items()}
