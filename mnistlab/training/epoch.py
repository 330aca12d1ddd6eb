"""One epoch of one run as pure functions: fit, evaluate, finish. Nothing here is compiled or mapped over runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnistlab.data import batches
from mnistlab.data.batches import Batch, Order, Pool
from mnistlab.training import losses
from mnistlab.training.losses import Sums
from mnistlab.training.result import Record
from mnistlab.training.step import EvalStep, TrainState, TrainStep


class Best(NamedTuple):
    """The weights of the best validation epoch so far; without validation examples, of the last epoch."""

    params: Any
    model_state: Any
    epoch: jax.Array  # int32 []: counted from 1; 0 before the first
    value: jax.Array  # float32 []: larger is better


class Carry(NamedTuple):
    """What one run (one seed, one set of settings) carries from epoch to epoch."""

    state: TrainState
    best: Best
    active: jax.Array  # bool []: false once early stopping has ended the run; nothing changes after
    num_stale: jax.Array  # int32 []: epochs since the best


def start(state: TrainState) -> Carry:
    """The carry before the first epoch."""
    params, model_state = jax.tree.map(jnp.copy, (state.params, state.model_state))  # the state's own are donated
    best = Best(params, model_state, jnp.zeros([], jnp.int32), jnp.full([], -jnp.inf))
    return Carry(state, best, jnp.ones([], bool), jnp.zeros([], jnp.int32))


def fit(train_step: TrainStep, state: TrainState, pool: Pool | None, order: Order | Batch) -> tuple[TrainState, Sums]:
    """(state, sums float32 [steps]) after every batch of `order` [steps, B], of a pool or streamed."""

    def body(state: TrainState, step_order: Any) -> tuple[TrainState, Sums]:
        return train_step(state, batches.take(pool, step_order))

    return jax.lax.scan(body, state, order)


def evaluate(
    eval_step: EvalStep, state: TrainState, pool: Pool | None, order: Order | Batch, first: jax.Array | int = 0
) -> Sums:
    """The sums of every batch of `order` [steps, B]: float32 [steps]; `first` is the number of its first batch."""

    def body(number: jax.Array, step_order: Any) -> tuple[jax.Array, Sums]:
        return number + 1, eval_step(state, batches.take(pool, step_order), number)

    return jax.lax.scan(body, jnp.asarray(first, jnp.int32), order)[1]


def finish(carry: Carry, train_sums: Sums, val_sums: Sums | None, patience_epochs: int | None) -> tuple[Carry, Record]:
    """(carry, record) at the end of an epoch, from the sums float32 [steps] of its batches; None without validation.

    With `patience_epochs` the run stops after so many epochs in a row without a new lowest validation loss, and the
    best is the lowest loss; without it the best is the highest validation accuracy.
    """
    train_loss, train_accuracy = losses.means(_total(train_sums))
    if val_sums is None:
        val_loss = val_accuracy = jnp.full([], jnp.nan)
        value, improved = carry.best.value, carry.active
    else:
        val_loss, val_accuracy = losses.means(_total(val_sums))
        value = val_accuracy if patience_epochs is None else -val_loss
        value = jnp.where(jnp.isfinite(value), value, -jnp.inf)
        improved = carry.active & (value > carry.best.value)
    epoch = carry.best.epoch + carry.num_stale + 1
    best = where(improved, Best(carry.state.params, carry.state.model_state, epoch, value), carry.best)
    num_stale = jnp.where(improved, 0, carry.num_stale + carry.active.astype(jnp.int32))
    active = carry.active if patience_epochs is None else carry.active & (num_stale < patience_epochs)
    record = Record(train_loss, train_accuracy, val_loss, val_accuracy)
    return Carry(carry.state, best, active, num_stale), record


def where(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`yes` or `no`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _total(sums: Sums) -> Sums:
    return jax.tree.map(jnp.sum, sums)
