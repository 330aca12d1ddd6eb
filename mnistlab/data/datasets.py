"""MNIST and its relatives: TFDS datasets prepared without TensorFlow, decoded once and memory-mapped from then on.

archives (idx.gz) -> TFDS dataset (array_record) -> decoded/*.npy beside it -> Split
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mnistlab import files
from mnistlab.config import ORDERS
from mnistlab.data import idx, tfds
from mnistlab.data.idx import Split
from mnistlab.errors import UserError, one_line

EMNIST_CONFIGS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
NAMES = ("mnist", "fashion_mnist", "kmnist", *(f"emnist/{config}" for config in EMNIST_CONFIGS))
IMAGE_SHAPE = (28, 28, 1)  # of all of them
IN_MEMORY_BYTES = 2**31  # of another dataset's images, which are decoded where they are needed if there are more

_ARCHIVES = Path(__file__).parent / "archives"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named dataset. A loader that knows the fingerprint gives it; of arrays made by hand it is computed."""

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    known_fingerprint: dataclasses.InitVar[str | None] = None  # no field: `replace` would keep it for other arrays
    val: Split | None = None  # its own validation set

    def __post_init__(self, known_fingerprint: str | None) -> None:
        if known_fingerprint is not None:
            self.__dict__["fingerprint"] = known_fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays, of a named dataset in TFDS order, whichever order was asked for."""
        images = {f"{name}_image": _digest(part.image) for name, part in self.parts.items()}
        labels = {f"{name}_label": _digest(np.asarray(part.label, np.int32)) for name, part in self.parts.items()}
        return _fingerprint(images | labels)

    @property
    def parts(self) -> dict[str, Split]:
        """In the order of the pool: train, test, and val where there is one."""
        return {"train": self.train, "test": self.test, **({} if self.val is None else {"val": self.val})}


def default_data_dir() -> Path:
    """Where datasets live unless told otherwise: mnistlab/datasets in $XDG_CACHE_HOME or else in ~/.cache."""
    return files.cache_folder() / "datasets"


def load(
    name: str, *, data_dir: Path | str | None = None, order: str = "tfds", manual_dir: Path | str | None = None
) -> Dataset:
    """The dataset `name`, its arrays read-only; prepared at the first call, memory-mapped and verified at later ones.

    mnist and fashion_mnist ship with the package. kmnist and emnist/* are downloaded by TFDS, or read from the original
    files in `manual_dir`. EMNIST is as TFDS has it: images transposed, letters with 37 classes of which 1..26 occur.

    Args:
      name: one of `NAMES`, or any TFDS dataset of equally large images and labels that is prepared in `data_dir`.
      data_dir: TFDS data folder; `default_data_dir()` if None.
      order: "tfds", the shuffle in which TFDS keeps the examples, or "file", that of the original files.
      manual_dir: folder with the original files, checked by the SHA-256 that TFDS has for them.

    Raises:
      UserError: unknown name, wrong or missing files, no network, a folder that cannot be written or holds a copy that
        cannot be read without TensorFlow.
    """
    return _load(name, data_dir, order, manual_dir, _ARCHIVES)


def _load(name: str, data_dir: Path | str | None, order: str, manual_dir: Path | str | None, archives: Path) -> Dataset:
    if order not in ORDERS:
        raise UserError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if name not in NAMES:
        return _load_prepared(root, name, order)
    shipped = archives / name if (archives / name).is_dir() else None
    dataset = _open(root, name, order, shipped)
    if dataset is None:
        with _lock(root, name):
            dataset = _open(root, name, order, shipped)  # another process may have prepared it meanwhile
            if dataset is None:
                _prepare(root, name, shipped, None if manual_dir is None else Path(manual_dir).expanduser())
                dataset = _open(root, name, order, shipped)
    if dataset is None:
        raise UserError(f"the files under {root / name} changed while they were read; run again")
    return dataset


def _load_prepared(root: Path, name: str, order: str) -> Dataset:
    """A dataset that somebody else has prepared with TFDS; in memory, unless it is large."""
    if order != "tfds":
        raise UserError(f"{name} has no known order of an original file; expected the order tfds")
    try:
        builder = tfds.stock_builder(name, root)
        dataset = from_builder(builder)
    except UserError as error:
        raise UserError(f"{error}; expected one of {', '.join(NAMES)}, or what TFDS has prepared in {root}") from error
    train, test = (
        Split(split.image[:], split.label) if np.prod(split.image.shape) <= IN_MEMORY_BYTES else split
        for split in (dataset.train, dataset.test)
    )
    return Dataset(name, dataset.version, dataset.class_names, train, test, dataset.fingerprint)


def permutation(num_examples: int, *seed: int) -> np.ndarray:
    """range(num_examples) in an order that `seed` decides, int32 [N].

    The same on every platform and NumPy release: a stable argsort of raw 64-bit draws.

    >>> permutation(5, 3).tolist(), permutation(5, 3, 1).tolist()
    ([0, 4, 1, 3, 2], [0, 2, 1, 3, 4])
    """
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(num_examples)
    return np.argsort(draws, kind="stable").astype(np.int32)


def random_split(num_examples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded random split of range(num_examples): int32 [round(fraction N)] and int32 [the rest].

    >>> train, rest = random_split(10, 0.8, seed=0)
    >>> len(train), len(rest), sorted([*train.tolist(), *rest.tolist()]) == list(range(10))
    (8, 2, True)

    Raises:
      UserError: `fraction` is not within (0, 1) or `seed` is negative.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction of a split must lie between 0 and 1, got {fraction}")
    if seed < 0:
        raise UserError(f"a seed must not be negative, got {seed}")
    index = permutation(num_examples, seed)
    count = round(fraction * num_examples)
    return index[:count], index[count:]


def from_builder(builder: Any) -> Dataset:
    """The splits train and test of a prepared TFDS dataset of equally large images, whatever its size; for streaming.

    Nothing is kept beside it and no image in memory: with Resources(stream_megabytes=...) `loop.train` reads and
    decodes what each chunk names. Labels are read once. `builder` is what `tfds.builder(name, data_dir=...)` gives.

    Raises:
      UserError: not prepared as array_record, no images with labels in two splits, or images of several sizes.
    """
    name = builder.info.full_name
    if not builder.is_prepared() or builder.info.file_format.value != tfds.FORMAT:
        raise UserError(
            f"{name} is not prepared as array_record; download_and_prepare(file_format='array_record') does it"
        )
    if not {"image", "label"} <= set(builder.info.features) or not set(idx.PREFIXES) <= set(builder.info.splits):
        raise UserError(f"{name} has not the features image and label in the splits {' and '.join(idx.PREFIXES)}")
    if None in builder.info.features["image"].shape:
        raise UserError(f"{name} has images of several sizes; expected one, prepare a dataset of resized images")
    splits = {}
    for split in idx.PREFIXES:
        source = tfds.data_source(builder, split)
        pieces = [range(len(source))[start : start + 10_000] for start in range(0, len(source), 10_000)]
        label = np.concatenate([tfds.labels(tfds.features(source, piece)) for piece in pieces])
        splits[split] = Split(tfds.SourceImages(builder, split), label)  # type: ignore[arg-type]
    records = {path.name: path.stat().st_size for path in sorted(Path(builder.data_dir).glob("*.array_record*"))}
    fingerprint = files.sha256(
        json.dumps([name, records, [_digest(split.label) for split in splits.values()]]).encode()
    )
    class_names = tuple(builder.info.features["label"].names)
    return Dataset(builder.info.name, str(builder.version), class_names, **splits, known_fingerprint=fingerprint)


# The decoded arrays beside the dataset: <data_dir>/<name>/<version>/decoded.


def _open(root: Path, name: str, order: str, shipped: Path | None) -> Dataset | None:
    """The decoded dataset if it is there, up to date and whole; None otherwise."""
    for path in sorted((root / name).glob("*/decoded/index"), reverse=True):
        try:
            digest, _, text = files.read_text(path).partition("\n")
            index = json.loads(text)
            if digest != files.sha256(text.encode()) or index["key"] != _key(path.parent.parent, shipped):
                continue
            paths = {array: path.parent / f"{array}.npy" for array in index["digests"]}
            if not all(each.is_file() for each in paths.values()):  # a FIFO would be waited for
                continue
            arrays = {array: np.asarray(np.load(each, mmap_mode="r")) for array, each in paths.items()}
        except Exception:  # a damaged file can raise anything: it is decoded again
            continue
        with ThreadPoolExecutor(2) as pool:
            digests = dict(zip(arrays, pool.map(_digest, arrays.values()), strict=True))
        if digests == index["digests"]:
            train, test = (_split_in_order(arrays, split, order) for split in idx.PREFIXES)
            return Dataset(name, index["version"], tuple(index["class_names"]), train, test, _fingerprint(digests))
    return None


def _split_in_order(arrays: Mapping[str, np.ndarray], split: str, order: str) -> Split:
    image, label, file_order = (arrays[f"{split}_{array}"] for array in ("image", "label", "file_order"))
    if order == "file":
        image, label = image[file_order], label[file_order]
        image.setflags(write=False)
        label.setflags(write=False)
    return Split(image, label)


def _key(dataset_dir: Path, shipped: Path | None) -> dict[str, Any]:
    """What the decoded arrays were made from; another TFDS, other archives or other records make them stale."""
    return {
        "tfds": importlib.metadata.version("tensorflow-datasets"),
        "archives": "" if shipped is None else files.sha256((shipped / "SHA256SUMS").read_bytes()),
        "records": {path.name: path.stat().st_size for path in sorted(dataset_dir.glob("*.array_record*"))},
    }


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for start in range(0, len(array), 10_000):  # an array may read from disk where it is indexed
        digest.update(np.ascontiguousarray(array[start : start + 10_000]).data)
    return digest.hexdigest()


def _fingerprint(digests: Mapping[str, str]) -> str:
    names = [f"{split}_{kind}" for split in (*idx.PREFIXES, "val") for kind in ("image", "label")]
    return files.sha256(" ".join(digests[name] for name in names if name in digests).encode())


def _write_decoded(builder: Any, shipped: Path | None, expected: Mapping[str, Split] | None) -> None:
    """Decodes a prepared dataset into its folder `decoded`, after comparison with the archives where they are known."""
    dataset_dir = Path(builder.data_dir)
    arrays: dict[str, np.ndarray] = {}
    for split in idx.PREFIXES:
        try:
            source = tfds.data_source(builder, split)
            image, label = tfds.decode(builder, source, range(len(source)))
        except Exception as error:
            raise UserError(
                f"cannot read {dataset_dir} ({one_line(error)}); delete that folder and run again"
            ) from error
        file_order = tfds.file_order(split, len(label))
        if expected is not None and not (
            np.array_equal(image[file_order], expected[split].image)
            and np.array_equal(label[file_order], expected[split].label)
        ):
            raise UserError(f"{dataset_dir} does not hold the images of its archives; delete that folder and run again")
        arrays |= {f"{split}_image": image, f"{split}_label": label, f"{split}_file_order": file_order}
    with _writing(dataset_dir):
        staging = dataset_dir / ".decoding"
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed; the lock is ours
        try:
            staging.mkdir()
            for array, value in arrays.items():
                np.save(staging / f"{array}.npy", value)
            index = {
                "version": str(builder.version),
                "class_names": builder.info.features["label"].names,
                "key": _key(dataset_dir, shipped),
                "digests": {array: _digest(value) for array, value in arrays.items()},
            }
            text = json.dumps(index, indent=1)
            files.write_atomic(staging / "index", f"{files.sha256(text.encode())}\n{text}")
            shutil.rmtree(dataset_dir / "decoded", ignore_errors=True)
            staging.rename(dataset_dir / "decoded")
        finally:
            shutil.rmtree(staging, ignore_errors=True)


# The TFDS dataset.


def _prepare(root: Path, name: str, shipped: Path | None, manual_dir: Path | None) -> None:
    """Makes what is missing: the TFDS dataset, its decoded arrays, or both. A dataset appears whole or not at all."""
    expected: dict[str, Split] = {}

    def read(builder: Any, downloads: Any) -> Mapping[str, Split]:
        if shipped is not None and manual_dir is None:
            expected.update(idx.read_shipped(shipped))
        else:
            expected.update(tfds.read_originals(builder, downloads, manual_dir))
        return expected

    with tfds.quiet():
        try:
            builder = tfds.make_builder(name, root, read)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {root / name} ({one_line(error)}); delete that folder and run again"
            ) from error
        if builder.is_prepared():
            if builder.info.file_format.value != tfds.FORMAT:
                raise UserError(
                    f"{builder.data_dir} is a {builder.info.file_format.value} copy, which takes TensorFlow to read; "
                    "choose another data_dir, where an array_record copy is made, or delete that folder"
                )
            _write_decoded(builder, shipped, None if shipped is None else idx.read_shipped(shipped))
            return
        if Path(builder.data_dir).exists():
            raise UserError(f"{builder.data_dir} holds no whole dataset; delete that folder and run again")
        with _writing(root):
            staging = root / f".preparing.{name.replace('/', '.')}"
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed; the lock is ours
            try:
                builder = tfds.make_builder(name, staging, read)
                downloads = (root if shipped is None and manual_dir is None else staging) / "downloads"
                tfds.prepare(builder, downloads, manual_dir)
                _write_decoded(builder, shipped, expected)
                for path in (*staging.glob("*/.config"), Path(builder.data_dir)):
                    target = root / path.relative_to(staging)
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        path.rename(target)
            finally:
                for leftover in (staging, *(root / "downloads" / builder.name).glob("*.tmp.*")):
                    shutil.rmtree(leftover, ignore_errors=True)


# Folders.


@contextlib.contextmanager
def _lock(root: Path, name: str) -> Iterator[None]:
    """Only one process at a time prepares a dataset; the lock goes with its process, however that ends."""
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = files.open_lock(root / f".{name.partition('/')[0]}.lock")
    with os.fdopen(handle):
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError):
            reason = error.strerror or one_line(error)
        elif found := re.search(r"\(\) failed: ([^;]+)", str(error)):  # an array_record's write()
            reason = found[1]
        else:
            raise
        raise UserError(f"cannot write in {folder}: {reason}; free the space or choose another data_dir") from error
