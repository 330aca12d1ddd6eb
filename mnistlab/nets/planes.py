"""Reductions of a few planes with gradients that XLA's CPU compiler computes once, not for each of their readers."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def mean_of_planes(array: jax.Array) -> jax.Array:
    """The mean over the first axis."""
    return functools.reduce(operator.add, list(array)) * (1 / len(array))


def _mean_forward(array: jax.Array) -> tuple[jax.Array, int]:
    return mean_of_planes(array), len(array)


def _mean_backward(count: int, gradient: jax.Array) -> tuple[jax.Array]:
    # A product with 1 / count would be repeated for each plane, and with it the sum from which the gradient comes.
    share = gradient / _hidden(count, gradient)
    return (jnp.broadcast_to(share[None], (count, *share.shape)),)


mean_of_planes.defvjp(_mean_forward, _mean_backward)


def _hidden(value: int, like: jax.Array) -> jax.Array:
    """`value` as float32 [], such that the compiler does not know it and keeps a division by it."""
    bits = lax.bitcast_convert_type(like[(0,) * like.ndim], jnp.int32)
    return jnp.maximum(jnp.minimum(bits, value), value).astype(jnp.float32)


@jax.custom_vjp
def max_of_planes(array: jax.Array) -> jax.Array:
    """The largest along the first axis; equal ones share the gradient."""
    return functools.reduce(jnp.maximum, list(array))  # XLA's CPU compiler does not vectorise its own reduction


def _max_forward(array: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = max_of_planes(array)
    return largest, (array, largest)


def _max_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    array, largest = saved
    share = gradient / functools.reduce(operator.add, [(plane == largest).astype(array.dtype) for plane in array])
    return (jnp.where(array == largest[None], share[None], 0.0),)


max_of_planes.defvjp(_max_forward, _max_backward)
