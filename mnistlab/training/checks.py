"""Whether a configuration is possible: its own bounds, and what only the registries and the image know."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mnistlab import config
from mnistlab.config import SWEEPABLE, C, OptimConfig, TrainConfig, one_of, with_setting
from mnistlab.data import arrays, augment
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.registry import Registry
from mnistlab.training import losses, optim
from mnistlab.training.step import StepFunctions

REGISTRIES: dict[str, Registry] = {"loss": losses.LOSSES, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES}
"""What a setting may name, by the name of its flag; models.make_model checks its own."""


def check(train_config: C, image_shape: Sequence[int]) -> C:
    """Returns `train_config` where every value is possible for images (H, W, C).

    Raises:
      UserError: one line that names the first impossible value.
    """
    config.check(train_config, REGISTRIES)
    if not isinstance(train_config.metrics, Mapping):
        raise UserError(f"metrics is {train_config.metrics!r:.80}; expected a mapping from names to functions")
    for name in {"loss", "accuracy"} & set(train_config.metrics):
        raise UserError(f"a metric is called {name}, as one of those that every run has; give it another name")
    if isinstance(train_config.optimizer, OptimConfig):
        optim.check(train_config.optimizer)
    augment.check(train_config.augment, image_shape)
    return train_config


def is_shipped(train_config: TrainConfig) -> bool:
    """Whether names and numbers say all of a config, and each name stands for what this package calls so."""
    if not config.is_named(train_config):
        return False
    optimizer = train_config.optimizer
    assert isinstance(optimizer, OptimConfig)
    named = {"loss": train_config.loss, "optimizer": optimizer.name, "schedule": optimizer.schedule}
    ours = all(REGISTRIES[kind].ships(name) for kind, name in named.items())
    return ours and models.MODELS.ships(train_config.model)


def check_sweep(sweep: Mapping[str, Sequence[float]], train_config: TrainConfig, image_shape: Sequence[int]) -> None:
    """Checks every swept value as if it stood in `train_config`.

    Raises:
      UserError: an unknown setting, or an impossible value.
    """
    for name, values in sweep.items():
        one_of("sweep", name, SWEEPABLE)
        if not values:
            raise UserError(f"sweep of {name} has no values; expected e.g. {name}=0.1,0.2")
        if len(set(values)) < len(values):
            raise UserError(f"sweep of {name} names a value twice: {','.join(map(str, values))}")
        stand_in = train_config
        if not isinstance(train_config.optimizer, OptimConfig):  # what its state holds is known later
            optimizer = OptimConfig("sgd" if name == "momentum" else "adamw")
            stand_in = dataclasses.replace(train_config, optimizer=optimizer)
        for value in values:
            check(with_setting(stand_in, name, value), image_shape)


def check_network(steps: StepFunctions, state: Any, dataset: Dataset, measures: Mapping[str, Any]) -> None:
    """Checks that a network gives logits for every label, and a loss and metrics one number per example.

    Args:
      state: of one run, its leaves arrays or their shapes.
      measures: name -> function of (logits, label); what is no function is a name that is known to be right.

    Raises:
      UserError: it does not.
    """
    pixels = dataset.train.image
    logits = jax.eval_shape(steps.predict, state, jax.ShapeDtypeStruct((2, *pixels.shape[1:]), pixels.dtype))
    if len(logits.shape) != 2 or logits.shape[0] != 2:
        raise UserError(f"the model gives {list(logits.shape)} for 2 images; expected logits [N, K]")
    arrays.check_labels(dataset, logits.shape[1])
    for name, function in measures.items():
        if callable(function):
            value = jax.eval_shape(function, logits, jax.ShapeDtypeStruct((2,), np.int32))
            if getattr(value, "shape", None) != (2,):
                raise UserError(f"{name} gives {value} for 2 examples; expected one number per example, [N]")
