"""Augmentation: pure functions of (key, images), random for each example by its position in the whole batch.

No example depends on the others or on how the batch is spread over devices; mixup is the exception, since it mixes
examples. What is switched off adds no code to the program.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnistlab import random_words
from mnistlab.config import AugmentConfig
from mnistlab.errors import UserError

# An example's words of randomness: two for each move, one for its share, one for the flip; then the noise.
# One draw compiles fast.
_TURN, _SHIFT, _CUTOUT, _SHARE, _FLIP, _NOISE = slice(0, 2), slice(2, 4), slice(4, 6), 6, 7, 8
_NUM_QUANTILES = 4096


class Mixed(NamedTuple):
    """Examples mixed with a partner: x = share * x_own + (1 - share) * x_partner."""

    image: jax.Array  # float32 [N, H, W, C]
    partner_label: jax.Array  # int32 [N]
    share: jax.Array  # float32 [N], within [0, 1]


def check(config: AugmentConfig, image_shape: Sequence[int]) -> None:
    """Checks what is in pixels against the shorter side of images (H, W, C): beyond it no augmentation is meant.

    Raises:
      UserError: one line that names the first setting that is too large.
    """
    side = min(image_shape[:2])
    sides = {"shift_pixels": 1, "cutout_pixels": 1, "elastic_sigma_pixels": 1, "elastic_alpha_pixels": 10}
    for name, factor in sides.items():
        value, most = getattr(config, name), factor * side
        if value > most:
            size = " x ".join(map(str, image_shape[:2]))
            raise UserError(f"{name} is {value!r:.80}; expected at most {most}: the images are {size} pixels")


def augment(key: jax.Array, image: jax.Array, config: AugmentConfig, axis_name: str | None = None) -> jax.Array:
    """Mirrors, rotates, scales and bends (one resampling), shifts and cuts out; mixup is apart: it needs the labels.

    Args:
      image: uint8 or float32 [N, H, W, C]; with `axis_name` one device's part of the batch.

    Returns:
      float32 [N, H, W, C] on the scale of `image`; what comes in from outside an image is 0.
    """
    num_pixels = image.shape[1] * image.shape[2] if config.elastic_alpha_pixels else 0
    words = _words(key, image.shape[0], _NOISE + -(-2 * num_pixels // 4), axis_name)  # noise: four draws from a word
    return jax.vmap(lambda words, image: _augment_one(words, image, config))(words, image.astype(jnp.float32))


def mixup(
    key: jax.Array, image: jax.Array, label: jax.Array, weight: jax.Array, alpha: float, axis_name: str | None = None
) -> Mixed:
    """Each example mixed with the next one of the whole batch at a share ~ Beta(alpha, alpha) of its own.

    Zhang, Cisse, Dauphin, Lopez-Paz 2018, arXiv 1710.09412. The next is a random one, since epochs are shuffled; the
    last example with a weight has the first as its partner, so that no example is mixed with padding.

    Args:
      image: float32 [N, H, W, C]; label int32 [N]; weight float32 [N], 0 for padding at the end of the batch.
    """
    num_examples = image.shape[0]
    share = _beta(_words(key, num_examples, _NOISE, axis_name)[:, _SHARE], alpha)
    position = _positions(num_examples, axis_name)
    whole_image, whole_label, whole_weight = image, label, weight
    if axis_name is not None:
        whole_image, whole_label, whole_weight = lax.all_gather((image, label, weight), axis_name, tiled=True)
    num_real = jnp.sum(whole_weight > 0)
    partner = jnp.where(position + 1 < num_real, position + 1, 0)
    own = share[:, None, None, None]
    return Mixed(own * image + (1 - own) * whole_image[partner], whole_label[partner], share)


def warp(
    image: jax.Array, degrees: jax.Array | float, factor: jax.Array | float, displacement: jax.Array | None = None
) -> jax.Array:
    """`image` turned counter-clockwise about its centre and enlarged, float32 [H, W, C]; bilinear, 0 outside.

    The pixel at offset d from the centre is read at R(-degrees) d / factor + displacement, float32 [2, H, W], pixels.
    """
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    angle = jnp.deg2rad(degrees)
    cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    at = jnp.stack([cosine * rows + sine * columns, cosine * columns - sine * rows])
    if displacement is not None:
        at += displacement
    return _sample(image, at[0] + (height - 1) / 2, at[1] + (width - 1) / 2)


def elastic_displacement(noise: jax.Array, alpha_pixels: float, sigma_pixels: float) -> jax.Array:
    """alpha * (Gaussian of width sigma over uniform noise in [-1, 1]), pixels; `noise` and result float32 [2, H, W].

    Simard, Steinkraus, Platt 2003. At an edge the Gaussian is cut off and divided by what is left of it.
    """
    down, across = (_gaussian(size, sigma_pixels) for size in noise.shape[1:])
    return alpha_pixels * jnp.einsum("ij,djk,lk->dil", down, noise, across)


def shift(image: jax.Array, rows: jax.Array, columns: jax.Array, max_pixels: int) -> jax.Array:
    """`image` [H, W, C] moved down by `rows` and right by `columns`, int32 [] within +-max_pixels; 0 comes in."""
    padded = jnp.pad(image, ((max_pixels, max_pixels), (max_pixels, max_pixels), (0, 0)))
    return lax.dynamic_slice(padded, (max_pixels - rows, max_pixels - columns, 0), image.shape)


def cutout(image: jax.Array, row: jax.Array, column: jax.Array, pixels: int) -> jax.Array:
    """`image` [H, W, C] with a square of side `pixels` about (row, column) at 0; it may stand out over the edge.

    DeVries, Taylor 2017, arXiv 1708.04552. A square of an even side reaches further up and left.
    """
    height, width, _ = image.shape
    inside = [
        (position >= centre - pixels // 2) & (position < centre - pixels // 2 + pixels)
        for position, centre in ((jnp.arange(height), row), (jnp.arange(width), column))
    ]
    return jnp.where(inside[0][:, None, None] & inside[1][None, :, None], 0.0, image)


def _augment_one(words: jax.Array, image: jax.Array, config: AugmentConfig) -> jax.Array:
    height, width, _ = image.shape
    if config.flip_fraction:
        image = jnp.where(_fraction(words[_FLIP]) < config.flip_fraction, image[:, ::-1], image)
    displacement = None
    if config.elastic_alpha_pixels:
        # 256 levels of [-1, 1], which smoothing blurs anyway.
        levels = lax.bitcast_convert_type(words[_NOISE:], jnp.uint8).reshape(-1)[: 2 * height * width]
        noise = levels.reshape(2, height, width) / 127.5 - 1
        displacement = elastic_displacement(noise, config.elastic_alpha_pixels, config.elastic_sigma_pixels)
    if config.rotate_degrees or config.scale_fraction or displacement is not None:
        turn, growth = _fraction(words[_TURN]) * 2 - 1
        image = warp(image, config.rotate_degrees * turn, 1 + config.scale_fraction * growth, displacement)
    if config.shift_pixels:
        rows, columns = _below(words[_SHIFT], 2 * config.shift_pixels + 1) - config.shift_pixels
        image = shift(image, rows, columns, config.shift_pixels)
    if config.cutout_pixels:
        row, column = _below(words[_CUTOUT], np.array([height, width]))
        image = cutout(image, row, column, config.cutout_pixels)
    return image


def _positions(num_examples: int, axis_name: str | None) -> jax.Array:
    """Where these examples stand in the whole batch, int32 [N]."""
    first = 0 if axis_name is None else lax.axis_index(axis_name) * num_examples
    return jnp.arange(num_examples) + first


def _words(key: jax.Array, num_examples: int, num_words: int, axis_name: str | None) -> jax.Array:
    return random_words.of_examples(key, _positions(num_examples, axis_name), num_words)


def _fraction(word: jax.Array) -> jax.Array:
    """Uniform in [0, 1)."""
    return (word >> 8).astype(jnp.float32) * 2.0**-24


def _below(word: jax.Array, bound: int | np.ndarray) -> jax.Array:
    """Uniform among 0 .. bound - 1, to bound / 2**32, int32."""
    return (word % jnp.asarray(bound, jnp.uint32)).astype(jnp.int32)


def _beta(word: jax.Array, alpha: float) -> jax.Array:
    """Beta(alpha, alpha) by its quantiles, between which it is linear: the distribution function is met to 1 / 4096.

    Rejection, the usual way, would put a loop into every step.
    """
    from scipy.special import betaincinv

    quantiles = jnp.asarray(betaincinv(alpha, alpha, np.linspace(0, 1, _NUM_QUANTILES + 1)), jnp.float32)
    place = _fraction(word) * _NUM_QUANTILES
    index = place.astype(jnp.int32)
    low, high = quantiles[index], quantiles[index + 1]
    return low + (place - index) * (high - low)


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """The matrix [size, size] that smooths a line; its rows sum to one."""
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    weights = np.exp(-0.5 * np.square(distance / sigma))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _sample(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """`image` [H, W, C] read between its pixels at float32 [H, W] each; it is 0 outside."""
    height, width, channels = image.shape
    # A frame of zeros, onto which whatever lies further out is moved.
    framed = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    row, column = jnp.clip(row + 1, 0, height + 1), jnp.clip(column + 1, 0, width + 1)
    top, left = jnp.minimum(jnp.floor(row), height), jnp.minimum(jnp.floor(column), width)
    down, right = (row - top)[..., None], (column - left)[..., None]
    corner = (top * (width + 2) + left).astype(jnp.int32)
    above = framed[corner] * (1 - right) + framed[corner + 1] * right
    below = framed[corner + width + 2] * (1 - right) + framed[corner + width + 3] * right
    return above * (1 - down) + below * down
