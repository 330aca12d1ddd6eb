"""The mean of the weights over the last steps, kept beside them: what is validated and tested in their place."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnistlab.data.batches import Batch
from mnistlab.training.losses import Sums
from mnistlab.training.step import StepFunctions, TrainState


class Averaged(NamedTuple):
    """An optimiser's state with the mean of what it has moved."""

    inner: Any  # the optimiser's own
    params: Any
    batch_stats: Any  # the moving averages of batch normalisation, {} without


def averaged(steps: StepFunctions, num_steps: float) -> StepFunctions:
    """`steps` with the exponential mean of the weights after each step in the optimiser's state.

    m_t = sum_i d^(t-i) w_i / sum_i d^(t-i) over the steps i = 1..t with d = exp(-1 / num_steps): 63 % of it are of the
    last num_steps steps. The moving averages of batch normalisation are averaged alike.
    """

    def init(seed: jax.Array, image_shape: tuple[int, ...], settings: Mapping[str, jax.Array], /) -> TrainState:
        state = steps.init(seed, image_shape, settings)
        kept = jax.tree.map(jnp.copy, _weights(state))  # the state's own are donated
        return state._replace(opt_state=Averaged(state.opt_state, *kept))

    def train_step(state: TrainState, batch: Batch, /, axis_name: str | None = None) -> tuple[TrainState, Sums]:
        inner, *before = state.opt_state
        after, sums = steps.train_step(state._replace(opt_state=inner), batch, axis_name)
        share = math.expm1(-1 / num_steps) / jnp.expm1(-after.step.astype(jnp.float32) / num_steps)
        now = optax.incremental_update(_weights(after), tuple(before), share)
        return after._replace(opt_state=Averaged(after.opt_state, *now)), sums

    return steps._replace(init=init, train_step=train_step)


def evaluated(state: TrainState) -> TrainState:
    """`state` with the weights that are validated, tested and kept: their mean where one is kept."""
    if not isinstance(state.opt_state, Averaged):
        return state
    _, params, batch_stats = state.opt_state
    return state._replace(params=params, model_state={**state.model_state, **batch_stats})


def _weights(state: TrainState) -> tuple[Any, Any]:
    return state.params, {name: value for name, value in state.model_state.items() if name == "batch_stats"}
