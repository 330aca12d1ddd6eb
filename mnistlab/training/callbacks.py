"""What may run alongside training: checkpoints, progress, events, checks. One list, called in its order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab.training import sizing
from mnistlab.training.checkpoint import Keeper
from mnistlab.training.epoch import Carry
from mnistlab.training.result import Run
from mnistlab.training.sizing import PopulationSize


class Snapshot(NamedTuple):
    """All that a population of R runs needs to go on after an epoch."""

    num_epochs: int  # done
    carry: Carry  # the runs on the first axis
    history: dict[str, np.ndarray]  # epoch.Record's fields, float32 [R, E], NaN for what is to come
    epoch_seconds: np.ndarray  # float64 [R, E]


class Epoch(NamedTuple):
    """What has just been trained."""

    number: int  # counted from 1
    runs: tuple[Run, ...]
    record: dict[str, np.ndarray]  # epoch.Record's fields, float32 [R]
    seconds: float  # wall time
    snapshot: Snapshot  # after it


class Callback:
    """Does nothing; to be given to `loop.train`, override what is of interest."""

    def on_size(self, size: PopulationSize) -> None:
        """Called before the very first epoch with the number of runs that share a program."""

    def restore(self, runs: Sequence[Run], beginning: Snapshot) -> Snapshot | None:
        """The snapshot to resume from; None: from the beginning. Only the first of several processes is asked."""

    def on_start(self, runs: Sequence[Run], snapshot: Snapshot) -> None:
        """Before the first epoch of a population, which is that after `snapshot`."""

    def on_epoch(self, epoch: Epoch) -> None:
        """After an epoch; may raise to end the training, and is not called where an earlier callback raises."""

    def on_end(self) -> None:
        """After the last epoch of a population, or when training ends with an error."""


class OnEpoch(Callback):
    """Calls a function after each epoch."""

    def __init__(self, function: Callable[[Epoch], None]):
        self.on_epoch = function  # type: ignore[method-assign, assignment]


class Checkpoint(Callback):
    """Keeps each population after each epoch in a sub-folder of `folder` of its own, and continues what was kept."""

    def __init__(self, folder: Path, belongs_to: Callable[[str], str]):
        """`belongs_to` of a population's name is what its checkpoints are marked with; others are refused.

        It should tell apart what must not be mixed: the config, the data, the code.
        """
        self.folder, self.belongs_to = folder, belongs_to
        self.keeper: Keeper | None = None

    def restore(self, runs: Sequence[Run], beginning: Snapshot) -> Snapshot | None:
        name = sizing.population_name(runs)
        self.keeper = Keeper(self.folder / name, self.belongs_to(name))
        kept = self.keeper.restore(_tree(beginning))
        if kept is None:
            return None
        num_epochs, tree = kept
        return Snapshot(num_epochs, tree["carry"], tree["history"], tree["epoch_seconds"])

    def on_epoch(self, epoch: Epoch) -> None:
        assert self.keeper is not None
        self.keeper.save(epoch.number, _tree(epoch.snapshot))

    def on_end(self) -> None:
        if self.keeper is not None:
            self.keeper.close()
            self.keeper = None


def _tree(snapshot: Snapshot) -> dict[str, Any]:
    return {"carry": snapshot.carry, "history": snapshot.history, "epoch_seconds": snapshot.epoch_seconds}
