"""A user's own images as a dataset: arrays, or a folder of pictures by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnistlab.data import photographs
from mnistlab.data.arrays import check_whole
from mnistlab.data.datasets import Dataset
from mnistlab.data.idx import Split
from mnistlab.errors import UserError

Arrays = tuple[np.ndarray, np.ndarray]
"""(images [N, H, W, C], labels int [N])."""


def from_arrays(
    train: Arrays,
    test: Arrays,
    val: Arrays | None = None,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A dataset of images uint8 (0 to 255) or float32 [N, H, W, C] and labels int [N], counted from 0.

    Whole numbers are divided by 255 on their way into a model, fractions are taken as they are.

    Args:
      val: a validation set; without one a variant's `split` says what validates.
      name: what results are called after.
      class_names: None calls the classes by their numbers.

    Raises:
      UserError: arrays that are no images with labels.

    >>> image, label = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 1, 0])
    >>> from_arrays((image, label), (image, label), name="blank").train.image.shape
    (4, 8, 8, 1)
    """
    parts = {"train": train, "test": test, **({} if val is None else {"val": val})}
    splits = {part: _split(part, arrays) for part, arrays in parts.items()}
    num_classes = 1 + max(int(split.label.max(initial=0)) for split in splits.values())
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(num_classes)))
    if len(names) < num_classes:
        raise UserError(f"class_names has {len(names)} names, but labels go to {num_classes - 1}; give one per class")
    return Dataset(name, "1.0.0", names, splits["train"], splits["test"], val=splits.get("val"))


def from_folder(folder: Path | str, *, image_shape: tuple[int, int, int] = (28, 28, 1), name: str = "") -> Dataset:
    """A dataset of pictures <folder>/<train, test or val>/<class>/*, brought to `image_shape` (H, W, C), uint8.

    Classes are numbered in the order of their names; C is 1 (grey) or 3 (colour).

    Raises:
      UserError: no such folders, or a file that is no picture.
    """
    root = Path(folder)
    if not (root / "train").is_dir() or not (root / "test").is_dir():
        raise UserError(
            f"{root} has no folders train and test; expected {root}/train/<class>/<picture>, and test alike"
        )
    if image_shape[2] not in (1, 3):
        raise UserError(f"image_shape is {image_shape}; expected (H, W, C) with C 1 for grey or 3 for colour")
    class_names = [path.name for path in _visible(root / "train") if path.is_dir()]
    parts = {part: _pictures(root / part, class_names, image_shape) for part in ("train", "test")}
    if (root / "val").is_dir():
        parts["val"] = _pictures(root / "val", class_names, image_shape)
    return from_arrays(**parts, name=name or root.resolve().name, class_names=class_names)


def _pictures(folder: Path, class_names: Sequence[str], image_shape: tuple[int, int, int]) -> Arrays:
    unknown = [path.name for path in _visible(folder) if path.is_dir() and path.name not in class_names]
    if unknown:
        raise UserError(
            f"{folder} has the class {unknown[0]!r}, which train has not; expected {', '.join(class_names)}"
        )
    images, labels = [], []
    for label, class_name in enumerate(class_names):
        for path in _visible(folder / class_name) if (folder / class_name).is_dir() else ():
            images.append(photographs.to_shape(photographs.read_picture(path), image_shape))
            labels.append(label)
    if not images:
        raise UserError(f"{folder} holds no pictures; expected {folder}/<class>/<picture>")
    return np.stack(images), np.array(labels, np.int32)


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, but for what systems hide in it."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _split(part: str, arrays: Arrays) -> Split:
    """The arrays with an axis of channels and int32 labels; what else they must be is checked before training."""
    try:
        image, label = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError) as error:
        raise UserError(f"{part} is no pair of arrays ({error}); expected (images, labels)") from error
    if image.ndim == 3:
        image = image[..., None]
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
    check_whole(part, label)
    return Split(image, label.astype(np.int32))
