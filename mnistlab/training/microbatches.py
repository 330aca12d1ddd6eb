"""A sum over a batch, over its halves and their microbatches: what a core's cache holds, and what two cores can share.

A half summed by another core is the same sum, bit by bit: a seed's results do not show whether it was trained alone,
but for dropout with a scale that is no power of two, whose product rounds as the loops around it are fused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

MOST_EXAMPLES = 64  # in a microbatch: measured, LeNet-5 of 256 examples takes 0.90 of the time that it takes whole
FEWEST_EXAMPLES = 16  # fewer make the products too narrow: then the half is not cut
FEWEST_TO_HALVE = 64  # in a batch: halves of 32 would cost a seed that has one core a tenth of its time


class Examples(NamedTuple):
    """What a loss sees of a batch, or of a part of it."""

    image: jax.Array  # float32 [N, H, W, C]
    label: jax.Array  # int32 [N]
    weight: jax.Array  # float32 [N]
    first: jax.Array  # int32 []: the place of the first one in the whole batch
    partner_label: jax.Array | None = None  # int32 [N], where examples are mixed
    share: jax.Array | None = None  # float32 [N]


def halves(model: nn.Module, loss: Callable[..., jax.Array], batch_size: int) -> bool:
    """Whether a batch of this model is summed by halves: a network of convolutions without batch statistics, on a CPU.

    Only a model that says so, by `examples_are_independent`, is called on a part of a batch, and only a loss of ours:
    another may weigh an example by what else is in the batch.
    """
    ours = str(getattr(loss, "__module__", "")).startswith(f"{__package__}.")
    independent = getattr(model, "examples_are_independent", False) and ours
    return independent and jax.default_backend() == "cpu" and batch_size % 2 == 0 and batch_size >= FEWEST_TO_HALVE


def microbatch_size(num_examples: int) -> int:
    """The largest number of at most MOST_EXAMPLES that divides a half, or all of it.

    >>> microbatch_size(128), microbatch_size(27000), microbatch_size(131)
    (64, 60, 131)
    """
    sizes = [size for size in range(FEWEST_EXAMPLES, MOST_EXAMPLES + 1) if num_examples % size == 0]
    return max(sizes, default=num_examples)


def summed(function: Callable[[Examples], Any], examples: Examples, axis_name: str | None, cut: bool = True) -> Any:
    """The sum of function(microbatch), a tree of arrays, over this device's examples: a half of the batch, or both.

    Args:
      axis_name: the mapped axis over which the batch is split; then the sum over it is still to be taken.
      cut: whether a half is cut into microbatches.
    """

    def of_half(half: Examples) -> Any:
        num_examples = len(half.label)
        return _scan(function, half, num_examples // microbatch_size(num_examples) if cut else 1)

    return _scan(of_half, examples, 2) if axis_name is None else of_half(examples)


def _scan(function: Callable[[Examples], Any], examples: Examples, num_parts: int) -> Any:
    """The sum of function(part) over equal parts, one after another."""
    if num_parts == 1:
        return function(examples)
    size = len(examples.label) // num_parts

    def split(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(num_parts, size, *leaf.shape[1:]) if leaf.ndim else leaf + size * jnp.arange(num_parts)

    parts = jax.tree.map(split, examples)
    function = jax.jit(function)  # traced once for its shapes and its loop, and inlined
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], parts))

    def add(total: Any, part: Examples) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, jax.tree.map(_zeros, shapes), parts)[0]


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Zeros that vary over the mesh's axes as what is added to them does."""
    zeros = jnp.zeros(shape.shape, shape.dtype)
    kind = shape.manual_axis_type
    return jax.lax.pcast(zeros, tuple(kind.varying), to="varying") if kind and kind.varying else zeros
