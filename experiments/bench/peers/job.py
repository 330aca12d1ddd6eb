"""What every peer is given: a network as a plain table, the same weights, images and order. Imports NumPy alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = tuple[str, str, dict[str, Any]]  # kind of layer, its name, its fields and "input_shape"
Round = Callable[[np.ndarray], float]
"""order int32 [steps, B] -> mean training loss over these steps, once they are done."""

VALIDATION_BATCH = 1000  # of the peers' validation; ours decides for itself


class Job(NamedTuple):
    """A training to time. Images are given as bytes; a peer may turn them into what suits it before the clock starts."""

    model: str
    layers: list[Row]
    optimizer: str
    learning_rate: float
    batch_size: int
    num_seeds: int
    num_threads: int
    folder: Path
    whole_epochs: bool = False  # a round is an epoch as a user has it: a new order, validation, the best weights kept
    platform: str = "cpu"  # on which ours runs, and so all must: cpu, gpu or tpu

    def image(self) -> np.ndarray:
        """uint8 [N, 28, 28, 1]."""
        return np.load(self.folder / "image.npy")

    def label(self) -> np.ndarray:
        """int32 [N]."""
        return np.load(self.folder / "label.npy")

    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [n, 28, 28, 1], int32 [n]: what a whole epoch ends with."""
        return np.load(self.folder / "val_image.npy"), np.load(self.folder / "val_label.npy")

    def params(self) -> dict[str, np.ndarray]:
        """ "layer/kernel" -> float32 array, as mnistlab initialises seed 0."""
        with np.load(self.folder / f"{self.model}.npz") as arrays:
            return dict(arrays)

    def order(self) -> np.ndarray:
        """int32 [steps, B]: the order of every round."""
        return np.load(self.folder / f"order_{self.batch_size}.npy")


def write(job: Job, path: Path) -> None:
    """Saves the job for another process."""
    path.write_text(json.dumps({**job._asdict(), "folder": str(job.folder)}))


def read(path: Path) -> Job:
    """The job that `write` saved."""
    fields = json.loads(path.read_text())
    return Job(**{**fields, "folder": Path(fields["folder"]), "layers": [tuple(row) for row in fields["layers"]]})


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding of one side: (before, after)."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2
