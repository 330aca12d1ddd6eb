"""Flax as its examples are written: nn.Conv, optax, a jitted step in a Python loop, or inside lax.scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from .job import VALIDATION_BATCH, Job, Round

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
OPTIMIZERS = {
    "adam": lambda rate: optax.adam(rate, eps=1e-7),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.9, eps=1e-7, eps_in_sqrt=False),
    "adadelta": lambda rate: optax.adadelta(rate, rho=0.95, eps=1e-7),
}


class State(NamedTuple):
    """What a step changes."""

    params: Any
    rest: dict[str, Any]  # the other collections
    opt_state: Any
    step: jax.Array  # int32 []


class Plain(nn.Module):
    """The job's table, layer by layer."""

    layers: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for kind, name, fields in self.layers:
            x = self.layer(kind, name, fields, x, train)
        return x

    def layer(self, kind: str, name: str, fields: dict[str, Any], x: jax.Array, train: bool) -> jax.Array:
        """One layer of the table, called by the name that its parameters have."""
        if kind == "Conv":
            k, stride = fields["kernel_size"], fields["stride"]
            x = nn.Conv(fields["features"], (k, k), (stride, stride), fields["padding"], name=name)(x)
            return ACTIVATIONS[fields["activation"]](x) if fields["activation"] else x
        if kind == "Dense":
            x = nn.Dense(fields["features"], name=name)(x)
            return ACTIVATIONS[fields["activation"]](x) if fields["activation"] else x
        if kind in ("AvgPool", "MaxPool"):
            pool = nn.avg_pool if kind == "AvgPool" else nn.max_pool
            window, stride = fields["window"], fields["stride"] or fields["window"]
            return pool(x, (window, window), (stride, stride))
        if kind == "LocalResponseNorm":
            radius = fields["depth_radius"]
            square = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (radius, radius)))
            total = sum(square[..., shift : shift + x.shape[-1]] for shift in range(2 * radius + 1))
            return x / (fields["bias"] + fields["alpha"] * total) ** fields["beta"]
        if kind == "BatchNorm":
            norm = nn.BatchNorm(not train, momentum=fields["momentum"], epsilon=fields["epsilon"], name=name)
            return norm(x)
        if kind == "Dropout":
            return nn.Dropout(fields["rate"])(x, deterministic=not train)
        if kind == "Flatten":
            return x.reshape(x.shape[0], -1)
        if kind == "Pad":
            size = fields["size"]
            return jnp.pad(x, ((0, 0), (size, size), (size, size), (0, 0)))
        if kind == "Inception":
            return Inception(fields["filters"], name=name)(x)
        raise ValueError(f"no Flax form of {kind}")


class Inception(nn.Module):
    """GoogLeNet's block of nn.Conv."""

    filters: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, three, five, projection, three_reduce, five_reduce = self.filters

        def conv(features: int, size: int, name: str, x: jax.Array) -> jax.Array:
            return nn.relu(nn.Conv(features, (size, size), name=name)(x))

        return jnp.concatenate(
            [
                conv(one, 1, "one", x),
                conv(three, 3, "three", conv(three_reduce, 1, "three_reduce", x)),
                conv(five, 5, "five", conv(five_reduce, 1, "five_reduce", x)),
                conv(projection, 1, "projection", nn.max_pool(x, (3, 3), (1, 1), "SAME")),
            ],
            -1,
        )


def prepare(job: Job, peer: str) -> Round:
    """A round: one call a step, or one call for all; with 8 seeds the latter is vmapped."""
    model = Plain(tuple(job.layers))
    tx = OPTIMIZERS[job.optimizer](job.learning_rate)
    image, label = jnp.asarray(job.image().astype(np.float32) / 255), jnp.asarray(job.label())
    state = _start(model, tx, job)
    step = _make_step(model, tx, image, label)
    if peer == "flax_step":
        jitted = jax.jit(step, donate_argnums=0)

        def train(state: Any, order: Any) -> Any:
            total = jnp.zeros([])
            for index in order:
                state, loss = jitted(state, index)
                total += loss
            return state, total / len(order)

    else:
        if job.num_seeds > 1:
            state = jax.tree.map(lambda leaf: jnp.stack([leaf] * job.num_seeds), state)

        def scan(state: Any, order: Any) -> Any:
            return jax.lax.scan(step, state, order)

        train = jax.jit(jax.vmap(scan, in_axes=(0, None)) if job.num_seeds > 1 else scan, donate_argnums=0)
    if job.whole_epochs:
        return _whole_epoch(model, state, train, job)

    def train_round(order: np.ndarray) -> float:
        nonlocal state
        state, loss = train(state, order)
        return float(loss.mean())

    return train_round


def _start(model: Plain, tx: Any, job: Job) -> State:
    """The job's weights, and what else a step needs."""
    image = jnp.zeros((1, 28, 28, 1))

    def init(seed: jax.Array) -> Any:
        variables = model.init(jax.random.key(seed), image, train=False)
        return variables["params"], {name: value for name, value in variables.items() if name != "params"}

    params, rest = jax.jit(init)(0)
    given = traverse_util.unflatten_dict(job.params(), sep="/")
    params = jax.tree.map(lambda _, mine: jnp.asarray(mine), params, given)
    return State(params, rest, tx.init(params), jnp.zeros([], jnp.int32))


def _make_step(model: Plain, tx: Any, image: jax.Array, label: jax.Array) -> Callable[[State, Any], Any]:
    """(state, index [B]) -> (state, loss)."""
    key = jax.random.key(0)

    def step(state: State, index: Any) -> Any:
        x, y = image[index], label[index]

        def objective(params: Any) -> Any:
            rngs = {"dropout": jax.random.fold_in(key, state.step)}
            variables = {"params": params, **state.rest}
            logits, changed = model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, (changed, (logits.argmax(-1) == y).sum())

        (loss, (changed, _)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, {**state.rest, **changed}, opt_state, state.step + 1), loss

    return step


def _whole_epoch(model: Plain, state: State, train: Callable[[State, Any], Any], job: Job) -> Round:
    """A new order without its last, partial batch, validation in one program, the best weights copied."""
    val_image, val_label = job.validation()
    num_train, num_val = len(job.label()), len(val_label)
    num_batches = num_train // job.batch_size
    size = min(VALIDATION_BATCH, num_val)
    pixels = jnp.asarray(val_image.astype(np.float32) / 255).reshape(-1, size, *val_image.shape[1:])
    labels = jnp.asarray(val_label).reshape(-1, size)
    random = np.random.default_rng(0)
    best_accuracy, best_weights = -1.0, None

    @jax.jit
    def accuracy_of(state: State) -> jax.Array:
        def batch(examples: Any) -> jax.Array:
            logits: Any = model.apply({"params": state.params, **state.rest}, examples[0], train=False)
            return (logits.argmax(-1) == examples[1]).sum()

        return jax.lax.map(batch, (pixels, labels)).sum() / num_val

    def train_round(order: np.ndarray) -> float:
        nonlocal state, best_accuracy, best_weights
        del order
        drawn = random.permutation(num_train)[: num_batches * job.batch_size].astype(np.int32)
        state, loss = train(state, drawn.reshape(num_batches, job.batch_size))
        accuracy = float(accuracy_of(state))
        if accuracy > best_accuracy:
            best_accuracy, best_weights = accuracy, jax.tree.map(jnp.copy, (state.params, state.rest))
        return float(loss.mean())

    return train_round
