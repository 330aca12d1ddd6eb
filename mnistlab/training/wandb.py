"""Weights & Biases: every epoch of every run, where its package is installed."""

import functools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnistlab.errors import UserError, file_errors, one_line
from mnistlab.files import sha256, write_atomic
from mnistlab.training.callbacks import Callback, Epoch
from mnistlab.training.result import Result, Run, name_of

PROJECT = "mnistlab"  # unless WANDB_PROJECT names another


def load() -> Any:
    """The package wandb.

    Raises:
      UserError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError("--wandb needs the package wandb, which is not installed; pip install wandb") from error
    return wandb


class WeightsAndBiases(Callback):
    """A run there for each run of a variant, grouped by comparison; gone on with where training goes on."""

    def __init__(self, folder: Path, group: str, variant: str, config: Mapping[str, Any]):
        """What is not sent, with WANDB_MODE=offline, stays in `folder`/wandb.

        Raises:
          UserError: wandb is not installed.
        """
        self.folder, self.group, self.variant, self.config = folder, group, variant, dict(config)
        self.wandb = load()
        self.begun: dict[str, Any] = {}

    def on_epoch(self, epoch: Epoch) -> None:
        """The losses and accuracies of an epoch."""
        for number, run in enumerate(epoch.runs):
            values = {name: float(values[number]) for name, values in epoch.record.items()}
            self._of(run).log({"epoch": epoch.number, **values}, step=epoch.number)

    def close(self, result: Result) -> None:
        """The final metrics of the runs that were trained, which end."""
        for number, run in enumerate(result.runs):
            if name_of(run) in self.begun:
                final = {name: float(values[number]) for name, values in result.metrics.items()}
                there = self._of(run)
                there.summary.update({name: value for name, value in final.items() if np.isfinite(value)})
                there.finish()

    @functools.cached_property
    def _mark(self) -> str:
        """What no other folder has, on whichever machine: drawn once, and gone with what it marks."""
        path = self.folder / "wandb" / "mark"
        with file_errors(f"cannot write {path}", "let it be written, or leave --wandb out"):
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                write_atomic(path, secrets.token_hex(8))
            return path.read_text()

    def _of(self, run: Run) -> Any:
        name = name_of(run)
        if name not in self.begun:
            place = f"{self._mark}/{self.variant}/{name}"
            try:
                self.begun[name] = self.wandb.init(
                    project=os.environ.get("WANDB_PROJECT", PROJECT),
                    group=self.group,
                    job_type=self.variant,
                    name=f"{self.variant} {name}",
                    id=sha256(place.encode())[:16],
                    resume="allow",
                    reinit="create_new",  # several at once
                    config={**self.config, "seed": run.seed, **run.settings},
                    dir=str(self.folder),
                    settings={"silent": True},
                )
            except self.wandb.Error as error:
                why = one_line(error).rstrip(".")[:200]
                raise UserError(f"wandb cannot begin a run: {why}; log in, or set WANDB_MODE=offline") from error
        return self.begun[name]
