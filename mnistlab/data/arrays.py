"""What a user's arrays must be like to be trained on; checked once, when they come in."""

from typing import Any

import numpy as np

from mnistlab.data.datasets import Dataset, Split
from mnistlab.errors import UserError


def check(dataset: Dataset) -> None:
    """Makes sure that a dataset's arrays are images uint8 or float32 [N, H, W, C] with labels int [N].

    Whole numbers are scaled on their way into the model, fractions are taken as they are.

    Raises:
      UserError: they are not, none is there, or training and test images differ in shape.
    """
    for name, split in dataset.parts.items():
        _check_split(name, split)
        train, other = ((*part.image.shape[1:], part.image.dtype) for part in (dataset.train, split))
        if train != other:
            raise UserError(f"train images are {train}, {name} images {other}; expected one shape (H, W, C) and type")


def check_labels(dataset: Dataset, num_classes: int) -> None:
    """Makes sure that a model of `num_classes` logits can be right about every label.

    Raises:
      UserError: a label is negative or beyond the logits.
    """
    for name, split in dataset.parts.items():
        low, high = int(np.min(split.label)), int(np.max(split.label))
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{name} labels go from {low} to {high}, but the model has {num_classes} logits: expected 0 to "
                f"{num_classes - 1}; take a model of {high + 1} logits, or number the classes from 0"
            )


def check_images(name: str, image: Any, *, may_be_float: bool = False) -> None:
    """Makes sure that `image` is uint8 [N, H, W, C], which is scaled on its way into the model, or float32.

    Raises:
      UserError: it is not; the line says how to convert it.
    """
    if not hasattr(image, "dtype"):
        raise UserError(f"{name} images are a {type(image).__name__}; expected an array uint8 [N, H, W, C]")
    if image.dtype != np.uint8 and not (may_be_float and image.dtype == np.float32):
        unit = "(255 * image).round().astype(np.uint8) where they lie in [0, 1]"
        how = unit if np.issubdtype(image.dtype, np.floating) else "image.astype(np.uint8) where they lie in 0 to 255"
        raise UserError(f"{name} images are {image.dtype}; expected uint8, 0 to 255: give {how}")
    if len(image.shape) != 4:
        axis = "; image[..., None] adds the axis of channels" if len(image.shape) == 3 else ""
        raise UserError(f"{name} images have the shape {_shape(image.shape)}; expected [N, H, W, C]{axis}")


def check_whole(name: str, label: Any) -> None:
    """Makes sure that `label` is whole numbers [N].

    Raises:
      UserError: it is not; the line says how to convert it.
    """
    if not hasattr(label, "dtype") or not np.issubdtype(label.dtype, np.integer) or label.ndim != 1:
        got = f"{label.dtype} {_shape(label.shape)}" if hasattr(label, "dtype") else f"a {type(label).__name__}"
        raise UserError(f"{name} labels are {got}; expected whole numbers [N], of one-hot rows label.argmax(axis=-1)")


def _check_split(name: str, split: Split) -> None:
    image, label = split
    check_images(name, image, may_be_float=True)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise UserError(f"{name} images hold NaN or infinity; remove those images")
    check_whole(name, label)
    if len(image) != len(label):
        raise UserError(f"{len(image):,} {name} images have {len(label):,} labels; expected one label per image")
    if not len(label) or 0 in image.shape:
        raise UserError(f"{name} images have the shape {_shape(image.shape)}; expected at least one image and pixel")


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
