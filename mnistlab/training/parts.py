"""A sum over a batch, computed over parts of it."""

from typing import Any

import jax
import jax.numpy as jnp


def summed(function: Any, examples: Any, size: int) -> Any:
    """The sum of function(part) over parts of `size` examples."""
    num = len(examples.label) // size
    first = examples.first + size * jnp.arange(num)
    split = jax.tree.map(lambda leaf: leaf.reshape(num, size, *leaf.shape[1:]), examples._replace(first=None))
    split = split._replace(first=first)
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], split))

    def zeros(shape: Any) -> jax.Array:
        kind = shape.manual_axis_type
        axes = tuple(kind.varying) if kind else ()
        zero = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.pcast(zero, axes, to="varying") if axes else zero

    def body(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(body, jax.tree.map(zeros, shapes), split)[0]
