"""TensorBoard events without TensorFlow."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnistlab.training.callbacks import Callback, Epoch
from mnistlab.training.result import name_of


class TensorBoard(Callback):
    """Writes one run's scalars and weight histograms under `folder`, one sub-folder per seed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def on_epoch(self, epoch: Epoch) -> None:
        """The scalars of an epoch and a histogram of every parameter."""
        params = jax.device_get(epoch.snapshot.carry.state.params)
        for number, run in enumerate(epoch.runs):
            writer = self._writer(name_of(run))
            for name, values in epoch.record.items():
                writer.add_scalar(name, float(values[number]), epoch.number)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                values = np.asarray(leaf[number])
                if np.isfinite(values).all():
                    writer.add_histogram(name, values, epoch.number)

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """A picture, uint8 [H, W, 3], beside the seeds."""
        self._writer("figures").add_image(name, pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        """Flushes everything to disk."""
        for writer in self.writers.values():
            writer.close()

    def _writer(self, name: str) -> Any:
        from tensorboardX import SummaryWriter

        if name not in self.writers:
            self.writers[name] = SummaryWriter(str(self.folder / name))
        return self.writers[name]
