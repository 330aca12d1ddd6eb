"""Cross-entropies of one example, and the sums from which every metric is made."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnistlab.registry import Registry

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits float32 [N, K], label int32 [N] or soft target float32 [N, K]) -> loss float32 [N]."""


class Sums(NamedTuple):
    """Weighted sums over examples: divided once, at the very end, so that partial batches count by their size."""

    loss: jax.Array  # float32 []
    correct: jax.Array  # float32 []
    num_examples: jax.Array  # float32 []
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 - float32 []: a user's own, in evaluation


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy of softmax(logits): log sum_k exp(z_k) - z_label, float32 [N].

    >>> cross_entropy(jnp.zeros((1, 10)), jnp.array([3])).item() == jnp.log(10.0).item()
    True
    """
    return categorical_cross_entropy(logits, _target(logits, label))


def categorical_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy with targets float32 [N, K] that sum to one: log sum_k exp(z_k) - sum_k t_k z_k, float32 [N]."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(target * logits, axis=-1)


def double_softmax_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy of softmax(softmax(logits)): what a softmax layer under a from-logits loss computes.

    It cannot fall under log(1 + (K - 1)/e), 1.4612 for K = 10: the inner softmax gives at most 1.
    """
    return cross_entropy(jax.nn.softmax(logits, axis=-1), label)


LOSSES: Registry[Loss] = Registry(
    {
        "cross_entropy": cross_entropy,
        "double_softmax": double_softmax_cross_entropy,
        "categorical": cross_entropy,  # Keras' name for it with one-hot targets
    }
)
"""What TrainConfig.loss may name; a script may add its own: LOSSES["hinge"] = hinge."""


def smoothed(loss: Loss, share: float) -> Loss:
    """`loss` of labels of which `share` is spread evenly over all classes: (1 - share) * target + share / K.

    Szegedy et al. 2016, arXiv 1512.00567. Without a share `loss` itself.
    """
    if not share:
        return loss

    @functools.wraps(loss)
    def of_smoothed(logits: jax.Array, label: jax.Array) -> jax.Array:
        return loss(logits, optax.smooth_labels(_target(logits, label), share))

    return of_smoothed


def sums(loss: jax.Array, logits: jax.Array, label: jax.Array, weight: jax.Array) -> Sums:
    """The weighted sums of a batch; all arguments have a leading axis [N]. Of soft targets the largest class counts.

    `correct` is NaN where a logit of an example that counts is not finite: an argmax would call it class 0.
    """
    label = label if label.ndim == 1 else jnp.argmax(label, axis=-1)
    nothing = jnp.sum(0 * jax.lax.stop_gradient(logits), axis=-1)  # NaN where a logit is not finite
    correct = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32) + nothing
    correct = jnp.where(weight > 0, weight * correct, 0)
    return Sums(jnp.sum(weight * loss), jnp.sum(correct), jnp.sum(weight))


def means(total: Sums) -> tuple[jax.Array, jax.Array]:
    """(mean loss, accuracy) of sums of any shape; both NaN where one is not finite."""
    loss, accuracy = total.loss / total.num_examples, total.correct / total.num_examples
    nothing = 0 * (loss + accuracy)  # NaN where one of them is not finite
    return loss + nothing, accuracy + nothing


def mixed_target(label: jax.Array, partner: jax.Array, share: jax.Array, num_classes: int) -> jax.Array:
    """The soft target of an example mixed with its partner: share on one label, the rest on the other, [N, K].

    >>> mixed_target(jnp.array([0]), jnp.array([2]), jnp.array([0.75]), 3).tolist()
    [[0.75, 0.0, 0.25]]
    """
    own, other = (jax.nn.one_hot(classes, num_classes) for classes in (label, partner))
    return share[:, None] * own + (1 - share[:, None]) * other


def _target(logits: jax.Array, label: jax.Array) -> jax.Array:
    if label.ndim == logits.ndim:
        return label
    # A product with a one-hot row: indexing would put a scatter into the gradient.
    return jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
