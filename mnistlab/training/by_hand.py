"""The network of keras_vs_scratch by hand: plain functions on plain arrays, no layers, no optimiser library.

    p = softmax(dropout(relu(x W1)) W2)        784 -> 512 -> 10, no biases

Its quirks are the source's: the gradient is of the summed loss, and dropout stays on in evaluation.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnistlab import random_words
from mnistlab.config import TrainConfig
from mnistlab.data.batches import Batch
from mnistlab.training import losses
from mnistlab.training.losses import Sums
from mnistlab.training.step import StepFunctions, TrainState, key_of

NUM_HIDDEN = 512
NUM_CLASSES = 10


class Weights(NamedTuple):
    """Both kernels."""

    hidden: jax.Array  # float32 [784, 512]
    output: jax.Array  # float32 [512, 10]


class Moments(NamedTuple):
    """Adam's running moments of the gradient."""

    mean: Weights
    square: Weights


def glorot_uniform(key: jax.Array, num_in: int, num_out: int) -> jax.Array:
    """Uniform in +-sqrt(6 / (num_in + num_out)), float32 [num_in, num_out]."""
    bound = (6 / (num_in + num_out)) ** 0.5
    return jax.random.uniform(key, (num_in, num_out), minval=-bound, maxval=bound)


def as_layers(weights: Weights) -> dict[str, dict[str, jax.Array]]:
    """The weights as the parameters of the network "mlp512" without biases."""
    return {"dense_1": {"kernel": weights.hidden}, "dense_2": {"kernel": weights.output}}


def dropout(x: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """x * mask / (1 - rate), float32 [N, K], K even; row i is masked by 16-bit draws, two a word, keyed by i alone."""
    words = random_words.of_examples(key, jnp.arange(len(x)), x.shape[1] // 2)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(x.shape)
    keep = bits >= jnp.round(rate * 65536).astype(jnp.uint32)
    return x * (keep / (1 - rate))


def forward(weights: Weights, x: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Logits float32 [N, 10] of x float32 [N, 784]."""
    hidden = jnp.maximum(x @ weights.hidden, 0)
    return dropout(hidden, rate, key) @ weights.output


def softmax_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """-log softmax(z)_label, float32 [N]; the largest logit is taken off first."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_normaliser = jnp.log(jnp.exp(shifted).sum(axis=1))
    picked = (shifted * jnp.eye(NUM_CLASSES)[label]).sum(axis=1)
    return log_normaliser - picked


def adam(
    weights: Weights, gradient: Weights, moments: Moments, step: jax.Array, learning_rate: jax.Array | float
) -> tuple[Weights, Moments]:
    """One step of Adam, b1 = 0.9, b2 = 0.999, epsilon = 1e-7: w - rate_t m / (sqrt(v) + epsilon).

    rate_t = rate sqrt(1 - b2^t) / (1 - b1^t), where t counts from 1.
    """
    rate = learning_rate * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    mean = Weights(*(0.9 * m + 0.1 * g for m, g in zip(moments.mean, gradient, strict=True)))
    square = Weights(*(0.999 * v + 0.001 * g * g for v, g in zip(moments.square, gradient, strict=True)))
    new = Weights(
        *(w - rate * m / (jnp.sqrt(v) + 1e-7) for w, m, v in zip(weights, mean, square, strict=True)),
    )
    return new, Moments(mean, square)


def make_step_functions(config: TrainConfig) -> StepFunctions:
    """What training needs, from the functions above; of `config` it takes the rates and the pixel scale."""
    default_rate = 0.2 if config.dropout_rate is None else config.dropout_rate

    def init(seed: jax.Array, image_shape: tuple[int, ...], settings: Mapping[str, jax.Array], /) -> TrainState:
        num_pixels = image_shape[0] * image_shape[1] * image_shape[2]
        hidden_key, output_key, rng = jax.random.split(jax.random.key(seed), 3)
        scale = settings.get("initial_scale", 1.0)
        weights = Weights(
            scale * glorot_uniform(hidden_key, num_pixels, NUM_HIDDEN),
            scale * glorot_uniform(output_key, NUM_HIDDEN, NUM_CLASSES),
        )
        zeros = Weights(*(jnp.zeros_like(kernel) for kernel in weights))
        rates = {
            "learning_rate": jnp.float32(settings.get("learning_rate", config.optimizer.learning_rate)),
            "dropout_rate": jnp.float32(settings.get("dropout_rate", default_rate)),
        }
        moments = Moments(zeros, Weights(*(jnp.zeros_like(kernel) for kernel in weights)))
        return TrainState(jnp.zeros([], jnp.int32), weights, {"settings": rates}, moments, jax.random.key_data(rng))

    def logits_of(state: TrainState, image: jax.Array, key: jax.Array) -> jax.Array:
        x = image.reshape(len(image), -1).astype(jnp.float32) * config.pixel_scale
        return forward(state.params, x, state.model_state["settings"]["dropout_rate"], key)

    def train_step(state: TrainState, batch: Batch, /, axis_name: str | None = None) -> tuple[TrainState, Sums]:
        del axis_name
        key = jax.random.fold_in(key_of(state), state.step)

        def summed_loss(weights: Weights) -> tuple[jax.Array, Sums]:
            logits = logits_of(state._replace(params=weights), batch.image, key)
            loss = softmax_cross_entropy(logits, batch.label)
            total = losses.sums(loss, logits, batch.label, batch.weight)
            return total.loss, total

        gradient, total = jax.grad(summed_loss, has_aux=True)(state.params)
        step = state.step + 1
        rate = state.model_state["settings"]["learning_rate"]
        weights, moments = adam(state.params, gradient, state.opt_state, step.astype(jnp.float32), rate)
        return state._replace(step=step, params=weights, opt_state=moments), total

    def eval_step(state: TrainState, batch: Batch, number: jax.Array, /, axis_name: str | None = None) -> Sums:
        del axis_name
        key = jax.random.fold_in(jax.random.fold_in(key_of(state), state.step), number + 1)
        logits = logits_of(state, batch.image, key)
        return losses.sums(softmax_cross_entropy(logits, batch.label), logits, batch.label, batch.weight)

    def predict(state: TrainState, image: jax.Array) -> jax.Array:
        return logits_of(state, image, jax.random.fold_in(key_of(state), state.step))

    return StepFunctions(init, train_step, eval_step, predict, splits_batches=False)
