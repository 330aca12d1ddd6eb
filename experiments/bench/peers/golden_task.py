"""What the golden runs train, said again from the sources' descriptions. Imports NumPy alone, and nothing of mnistlab.

The images are read from the archives, the two halves of a test set are cut in the order in which TFDS writes it:
sorted by the MD5 of the split's name and the image's number in the file.
"""

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

ARCHIVES = Path(__file__).parents[3] / "mnistlab" / "data" / "archives"
METRICS = ("test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_accuracy", "train_loss")
"""test and val: of the weights after the last epoch; train: running means over the last epoch's own steps."""
COLUMNS = ("experiment", "variant", "seed", "num_epochs", *METRICS)


class Task(NamedTuple):
    """One variant of an experiment under the protocol `reported`; Adam with Keras' constants in each."""

    experiment: str
    variant: str
    dataset: str
    network: str  # lenet5, dense, mlp or lenet5_relu
    double_softmax: bool  # the network ends in a softmax, and its loss takes the output for logits
    learning_rate: float
    batch_size: int
    num_epochs: int
    random_split: bool  # 80:20 of the development set; else the test set's halves are test and validation
    num_development: int = 60_000  # the first in the file
    num_test: int = 10_000  # the first in the file, or in TFDS's order where halves are cut


class Images(NamedTuple):
    """A set of images with their labels."""

    image: np.ndarray  # uint8 [N, 28, 28]
    label: np.ndarray  # uint8 [N]


FULL = (
    Task("fashion_mlp", "mlp_128_64", "fashion_mnist", "mlp", False, 1e-2, 128, 20, True),
    Task("lenet_vs_dense", "lenet5", "mnist", "lenet5", True, 1e-3, 256, 20, False),
    Task("lenet_vs_dense", "dense", "mnist", "dense", False, 1e-3, 256, 20, False),
    Task("fashion_lenet_regularizers", "baseline", "fashion_mnist", "lenet5_relu", False, 1e-2, 128, 10, True),
)
REDUCED = tuple(
    task._replace(variant=f"{task.variant}_reduced", num_epochs=2, batch_size=64, num_development=2_100, num_test=2_000)
    for task in FULL
)
"""The same in seconds: every part of a full run is in it, the smaller last batch included."""


def name(task: Task) -> str:
    """What the command line calls a task."""
    return f"{task.experiment}/{task.variant}"


def read(task: Task, archives: Path = ARCHIVES) -> tuple[Images, Images]:
    """The (development, test) images of a task."""
    folder = archives / task.dataset
    development, test = (
        Images(_unpack(folder, f"{part}-images"), _unpack(folder, f"{part}-labels")) for part in ("train", "t10k")
    )
    if not task.random_split:
        order = tfds_order("test", len(test.label))
        test = Images(test.image[order], test.label[order])
    return _first(development, task.num_development), _first(test, task.num_test)


def tfds_order(split: str, num_examples: int) -> np.ndarray:
    """The file's examples in the order in which TFDS writes a split: int64 [N]."""
    digests = [hashlib.md5(f"{split}{number}".encode()).digest() for number in range(num_examples)]
    return np.array(sorted(range(num_examples), key=digests.__getitem__))


def _first(images: Images, count: int) -> Images:
    return Images(images.image[:count], images.label[:count])


def _unpack(folder: Path, kind: str) -> np.ndarray:
    """An IDX file: two zeros, its type 8 (bytes), the number of axes, each axis' length as a big-endian int32, data."""
    (path,) = folder.glob(f"{kind}-idx?-ubyte.gz")
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">i4", axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
