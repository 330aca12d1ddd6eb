"""Trained networks on disk: their weights saved, read back, and asked."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnistlab.comparison import workdirs
from mnistlab.data import batches
from mnistlab.data.datasets import Dataset
from mnistlab.training import checkpoint
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.result import Result
from mnistlab.training.step import Predict, TrainState


def save_weights(folder: Path, state: TrainState) -> None:
    """Leaves the weights of all runs in `folder`, <workdir>/checkpoints/<variant>/last or best, in place of others."""
    checkpoint.save_once(folder, _weights(state), _run_of(folder))


def restore_weights(folder: Path, like: TrainState) -> TrainState:
    """The state that an experiment left in <workdir>/checkpoints/<variant>/last or best, every run on the first axis.

    Raises:
      UserError: nothing is there, it is damaged, or another run's than config.json says.
    """
    return like._replace(**checkpoint.restore_once(folder, _weights(like), _run_of(folder)))


def logits(predict: Predict, state: TrainState, image: np.ndarray) -> np.ndarray:
    """float32 [N, K] of one run's `state` for images [N, H, W, C]."""
    starts = range(0, len(image), EVAL_BATCH_SIZE)
    parts = [predict(state, jax.numpy.asarray(image[start : start + EVAL_BATCH_SIZE])) for start in starts]
    return np.concatenate(parts)


def predicted_classes(predict: Predict, state: TrainState, result: Result, dataset: Dataset) -> np.ndarray:
    """What the first run says of its test examples, int [n]."""
    first = jax.tree.map(lambda leaf: leaf[0], state)
    return np.argmax(logits(predict, first, test_examples(result, dataset)[0]), axis=-1)


def test_examples(result: Result, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of the test examples of the first run."""
    part = batches.split_parts(result.config, dataset, result.runs[0].seed).test - len(dataset.train.label)
    return dataset.test.image[part], dataset.test.label[part]


def _run_of(folder: Path) -> str:
    folder = folder.absolute()
    return workdirs.belonging(folder.parents[2], folder.parent.name, folder.name)


def _weights(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "model_state": state.model_state, "rng": state.rng, "step": state.step}
