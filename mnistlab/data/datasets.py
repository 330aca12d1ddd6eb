"""MNIST and its relatives: TFDS datasets prepared without TensorFlow, decoded once and memory-mapped from then on.

    archives (idx.gz) -> TFDS dataset (array_record) -> decoded/*.npy beside it -> Split

The dataset on disk is the stock one (`tfds.builder(name, data_dir=...)` opens it); only the way there is ours.
"""

import contextlib
import dataclasses
import fcntl
import functools
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import socket
import struct
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab import files
from mnistlab.errors import UserError

EMNIST_CONFIGS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
NAMES = ("mnist", "fashion_mnist", "kmnist", *(f"emnist/{config}" for config in EMNIST_CONFIGS))
ORDERS = ("tfds", "file")

_ARCHIVES = Path(__file__).parent / "archives"
_IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_PREFIXES = {"train": "train", "test": "t10k"}  # of the files of a split


class Split(NamedTuple):
    """N examples: what a network is given."""

    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named dataset. A loader that knows the fingerprint gives it; of arrays made by hand it is computed."""

    name: str
    version: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    known_fingerprint: dataclasses.InitVar[str | None] = None  # no field: `replace` would keep it for other arrays

    def __post_init__(self, known_fingerprint: str | None) -> None:
        if known_fingerprint is not None:
            self.__dict__["fingerprint"] = known_fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays, of a named dataset in TFDS order, whichever order was asked for."""
        splits = dict(zip(_PREFIXES, (self.train, self.test), strict=True))
        images = {f"{name}_image": _digest(split.image) for name, split in splits.items()}
        labels = {f"{name}_label": _digest(np.asarray(split.label, np.int32)) for name, split in splits.items()}
        return _fingerprint(images | labels)


def default_data_dir() -> Path:
    """Where datasets live unless told otherwise: mnistlab/datasets in $XDG_CACHE_HOME or else in ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mnistlab" / "datasets"


def load(
    name: str, *, data_dir: Path | str | None = None, order: str = "tfds", manual_dir: Path | str | None = None
) -> Dataset:
    """The dataset `name`, its arrays read-only; prepared at the first call, memory-mapped and verified at later ones.

    mnist and fashion_mnist need no network. kmnist and emnist/* are downloaded by TFDS, or read from the original files
    in `manual_dir`. EMNIST is as TFDS has it: images transposed, and letters with 37 classes of which 1..26 occur.

    Args:
      name: one of `NAMES`.
      data_dir: TFDS data folder; `default_data_dir()` if None.
      order: "tfds", the shuffle in which TFDS keeps the examples, or "file", that of the original files.
      manual_dir: folder with the original files, checked by the SHA-256 that TFDS has for them.

    Raises:
      UserError: unknown name, wrong or missing files, no network, a folder that cannot be written or holds a copy that
        cannot be read without TensorFlow.
    """
    return _load(name, data_dir, order, manual_dir, _ARCHIVES)


def _load(name: str, data_dir: Path | str | None, order: str, manual_dir: Path | str | None, archives: Path) -> Dataset:
    if name not in NAMES:
        raise UserError(f"unknown dataset {name!r}; known: {', '.join(NAMES)}")
    if order not in ORDERS:
        raise UserError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
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


# Slices and splits.


def take(dataset: Dataset, spec: str) -> Split:
    """The part of `dataset` that `spec` names, as TFDS slices: percentages are rounded to the nearest example.

    "train", "test[:50%]", "test[50%:]", "train[:1000]", "test[-500:]".

    Raises:
      UserError: `spec` is not such a slice or reaches beyond the split.
    """
    split, start, stop = _parse_slice(spec, {"train": len(dataset.train.label), "test": len(dataset.test.label)})
    examples = getattr(dataset, split)
    return Split(examples.image[start:stop], examples.label[start:stop])


def _parse_slice(spec: str, num_examples: Mapping[str, int]) -> tuple[str, int, int]:
    """The split, first and past-the-last example of a slice.

    >>> _parse_slice("test[50%:]", {"test": 11})
    ('test', 6, 11)
    """
    number = r"-?\d+(?:_\d+)*(?:(?:\.\d+)?%)?"
    match = re.fullmatch(rf"(\w+)(?:\[({number})?:({number})?\])?", spec)
    if match is None or spec.endswith("[:]"):
        raise UserError(f"bad slice {spec!r}; expected a split and perhaps a slice: train, test[:50%], train[-500:]")
    split, *bounds = match.groups()
    if split not in num_examples:
        raise UserError(f"unknown split {split!r} in {spec!r}; known: {', '.join(num_examples)}")
    if len({bound.endswith("%") for bound in bounds if bound}) > 1:
        raise UserError(f"bad slice {spec!r}: both bounds must be percentages, or both examples")
    percent, size = "%" in spec, num_examples[split]
    whole = 100 if percent else size
    values = [float(bound.rstrip("%")) if bound else default for bound, default in zip(bounds, (0, whole), strict=True)]
    if max(map(abs, values)) > whole:
        raise UserError(f"the slice {spec!r} reaches beyond the {size} examples of {split!r}")
    start, stop = (round(value * size / 100.0) if percent else int(value) for value in values)
    start, stop = (bound + size if bound < 0 else bound for bound in (start, stop))
    if start >= stop:
        raise UserError(f"the slice {spec!r} selects none of the {size} examples of {split!r}")
    return split, start, stop


def random_split(num_examples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded random split of range(num_examples): int32 [round(fraction N)] and int32 [the rest].

    The order of 64-bit PCG64 draws, so that it stays the same when NumPy changes its shuffle.

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
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(num_examples)
    index = np.argsort(draws, kind="stable").astype(np.int32)
    count = round(fraction * num_examples)
    return index[:count], index[count:]


# Straight from a TFDS data source.


class SourceImages:
    """The images of a TFDS data source as an array uint8 [N, H, W, C] that is read and decoded where it is indexed."""

    def __init__(self, builder: Any, split: str):
        self._builder, self._source = builder, _data_source(builder, split)
        self.shape = (len(self._source), *builder.info.features["image"].shape)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        image, _ = _decode(self._builder, self._source, chosen.ravel().tolist())
        return image.reshape(*chosen.shape, *self.shape[1:])


def from_builder(builder: Any) -> Dataset:
    """The splits train and test of a prepared TFDS dataset of equally large images, whatever its size; for streaming.

    Nothing is kept beside it and no image in memory: train.run(..., stream_megabytes=...) reads and decodes what each
    chunk names. Labels are read once. `builder` is what `tfds.builder(name, data_dir=...)` gives.

    Raises:
      UserError: not prepared as array_record, or images of several sizes.
    """
    import tensorflow_datasets as tfds

    name = builder.info.full_name
    if not builder.is_prepared() or builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{name} is not prepared as array_record; download_and_prepare(file_format='array_record') does it"
        )
    if None in builder.info.features["image"].shape:
        raise UserError(f"{name} has images of several sizes; expected one, prepare a dataset of resized images")
    splits = {}
    for split in _PREFIXES:
        source = _data_source(builder, split)
        pieces = [range(len(source))[start : start + 10_000] for start in range(0, len(source), 10_000)]
        label = np.concatenate([_labels(_features(source, piece)) for piece in pieces])
        splits[split] = Split(SourceImages(builder, split), label)  # type: ignore[arg-type]
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
            digest, _, text = path.read_text().partition("\n")
            index = json.loads(text)
            if digest != files.sha256(text.encode()) or index["key"] != _key(path.parent.parent, shipped):
                continue
            arrays = {
                array: np.asarray(np.load(path.parent / f"{array}.npy", mmap_mode="r")) for array in index["digests"]
            }
        except Exception:  # a damaged file can raise anything: it is decoded again
            continue
        with ThreadPoolExecutor(2) as pool:
            digests = dict(zip(arrays, pool.map(_digest, arrays.values()), strict=True))
        if digests == index["digests"]:
            train, test = (_split_in_order(arrays, split, order) for split in _PREFIXES)
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
    return files.sha256(" ".join(digests[f"{s}_{a}"] for s in _PREFIXES for a in ("image", "label")).encode())


def _write_decoded(builder: Any, shipped: Path | None, expected: Mapping[str, Split] | None) -> None:
    """Decodes a prepared dataset into its folder `decoded`, after comparison with the archives where they are known."""
    dataset_dir = Path(builder.data_dir)
    arrays: dict[str, np.ndarray] = {}
    for split in _PREFIXES:
        try:
            source = _data_source(builder, split)
            image, label = _decode(builder, source, range(len(source)))
        except Exception as error:
            raise UserError(
                f"cannot read {dataset_dir} ({_one_line(error)}); delete that folder and run again"
            ) from error
        file_order = _file_order(split, len(label))
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
    import tensorflow_datasets as tfds  # half a second that later calls need not pay

    expected: dict[str, Split] = {}

    def read(builder: Any, downloads: Any) -> Mapping[str, Split]:
        if shipped is not None and manual_dir is None:
            expected.update(_read_shipped(shipped))
        else:
            expected.update(_read_originals(builder, downloads, manual_dir))
        return expected

    with _quiet():
        try:
            builder = _builder(name, root, read)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {root / name} ({_one_line(error)}); delete that folder and run again"
            ) from error
        if builder.is_prepared():
            if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
                raise UserError(
                    f"{builder.data_dir} is a {builder.info.file_format.value} copy, which takes TensorFlow to read; "
                    "choose another data_dir, where an array_record copy is made, or delete that folder"
                )
            _write_decoded(builder, shipped, None if shipped is None else _read_shipped(shipped))
            return
        with _writing(root):
            staging = root / f".preparing.{name.replace('/', '.')}"
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed; the lock is ours
            try:
                builder = _builder(name, staging, read)
                builder.download_and_prepare(
                    download_dir=(root if shipped is None and manual_dir is None else staging) / "downloads",
                    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
                    file_format="array_record",
                )
                _write_decoded(builder, shipped, expected)
                for path in (*staging.glob("*/.config"), Path(builder.data_dir)):
                    target = root / path.relative_to(staging)
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        path.rename(target)
            finally:
                for leftover in (staging, *(root / "downloads" / builder.name).glob("*.tmp.*")):
                    shutil.rmtree(leftover, ignore_errors=True)


def _builder(name: str, data_dir: Path, read: Callable[[Any, Any], Mapping[str, Split]]) -> Any:
    """The stock builder, except that `read` opens the archives and that images are encoded here."""
    import tensorflow_datasets as tfds

    dataset_name, _, config = name.partition("/")
    stock = tfds.builder_cls(dataset_name)

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg, misc, valid-type]
        name = dataset_name

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            return {split: _examples(*examples) for split, examples in read(self, dl_manager).items()}

    return Builder(data_dir=data_dir, config=config or None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints, draws bars and warns of what is none of the user's business: not within this context."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    verbosity, bars = logging.get_verbosity(), tqdm_utils._active
    try:
        logging.set_verbosity(logging.ERROR)
        tqdm_utils.display_progress_bar(enable=False)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tqdm_utils.display_progress_bar(enable=bars)


def _examples(image: np.ndarray, label: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (pixels, target) in enumerate(zip(image, label.tolist(), strict=True)):
        yield index, {"image": _encode_png(pixels), "label": target}


def _data_source(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def _features(source: Any, index: Sequence[int]) -> list[Any]:
    from tensorflow_datasets.proto import tf_example_pb2

    records = source.__getitems__(index)  # in bulk: five times as fast as one by one
    return [tf_example_pb2.Example.FromString(record).features.feature for record in records]


def _labels(features: Sequence[Any]) -> np.ndarray:
    return np.array([feature["label"].int64_list.value[0] for feature in features], np.int32)


def _decode(builder: Any, source: Any, index: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, H, W, C] and int32 [N] of a data source's examples at `index`."""
    features = _features(source, index)
    pngs = [feature["image"].bytes_list.value[0] for feature in features]
    image_feature = builder.info.features["image"]
    image = _decode_pngs(pngs, image_feature.shape)
    if image is None:
        image = np.stack([image_feature.decode_example_np(png) for png in pngs])
    return image, _labels(features)


def _file_order(split: str, num_examples: int) -> np.ndarray:
    """Where TFDS put a file's examples: int32 [N]; it sorts them by a hash of their index, salted with the split."""
    from tensorflow_datasets.core import hashing

    hash_key = hashing.Hasher(split).hash_key
    hashes = [hash_key(index) for index in range(num_examples)]
    file_order = np.empty(num_examples, np.int32)
    file_order[sorted(range(num_examples), key=hashes.__getitem__)] = np.arange(num_examples, dtype=np.int32)
    return file_order


# The archives.


def _read_shipped(folder: Path) -> dict[str, Split]:
    """The splits in a folder of idx.gz files and SHA256SUMS (of the unpacked files)."""
    names = ["SHA256SUMS", *(f"{prefix}-{kind}.gz" for prefix in _PREFIXES.values() for kind in _IDX_KINDS)]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; install mnistlab again")
    sums = {kind: digest for digest, kind in map(str.split, (folder / "SHA256SUMS").read_text().splitlines())}

    def unpack(kind: str) -> tuple[bytes, Path]:
        path = folder / f"{kind}.gz"
        data = _gunzip(path.read_bytes(), path)
        if (got := files.sha256(data)) != sums.get(kind):
            raise UserError(
                f"{path} is damaged: SHA-256 unpacked {got}, expected {sums.get(kind)}; install mnistlab again"
            )
        return data, path

    return _parse_splits(_PREFIXES, unpack)


def _read_originals(builder: Any, downloads: Any, manual_dir: Path | None) -> dict[str, Split]:
    """The splits of the files that the stock builder would download; TFDS checks their SHA-256.

    As the stock builder does, only the first examples are taken of an EMNIST file that holds more than its config says.
    """
    config = builder.builder_config
    if config is None:
        names = [f"{prefix}-{kind}.gz" for prefix in _PREFIXES.values() for kind in _IDX_KINDS]
        urls = {name: urllib.parse.urljoin(builder.URL, name) for name in names}
    else:
        urls = {builder.URL.rpartition("/")[2]: builder.URL}
    origin = f"{', '.join(urls)} from {builder.URL}"
    if manual_dir is not None and (missing := [name for name in urls if not (manual_dir / name).is_file()]):
        raise UserError(f"{manual_dir} lacks {', '.join(missing)}; it must hold {origin}")
    try:
        if manual_dir is None and not any(Path(downloads.download_dir).glob(f"{builder.name}/*.INFO*")):
            _probe(builder.URL)
        paths = {name: Path(path) for name, path in downloads.download(urls).items()}
    except Exception as error:  # of socket, requests, urllib3 or TFDS, by the way it failed
        reason = _one_line(error).partition(" To debug")[0]
        if "checksum" in reason:
            raise UserError(f"wrong file: {reason}") from error
        raise UserError(
            f"cannot download {builder.name}: {reason}; without a network, put {origin} into a folder and give it "
            "as manual_dir"
        ) from error
    if config is None:
        return _parse_splits(_PREFIXES, lambda kind: (_gunzip((p := paths[f"{kind}.gz"]).read_bytes(), p), p))
    (path,) = paths.values()
    prefixes = {split: f"emnist-{config.name}-{split}" for split in _PREFIXES}
    try:
        with zipfile.ZipFile(path) as archive:
            splits = _parse_splits(
                prefixes, lambda kind: (_gunzip(archive.read(m := f"gzip/{kind}.gz"), path / m), path / m)
            )
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path} is damaged: {_one_line(error)}; get it again") from error
    counts = {"train": config.train_examples, "test": config.test_examples}
    return {split: Split(*(array[: counts[split]] for array in splits[split])) for split in counts}


def _probe(url: str) -> None:
    """Raises OSError at once where TFDS would retry for minutes to reach the host of `url`."""
    parts = urllib.parse.urlsplit(url)
    if not urllib.request.getproxies() and parts.hostname:
        with socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 20):
            pass


def _parse_splits(prefixes: Mapping[str, str], unpack: Callable[[str], tuple[bytes, Path]]) -> dict[str, Split]:
    splits = {}
    for split, prefix in prefixes.items():
        image, label = (_parse_idx(*unpack(f"{prefix}-{kind}")) for kind in _IDX_KINDS)
        splits[split] = Split(image[..., None], label.astype(np.int32))
    return splits


def _gunzip(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}; get it again") from error


def _parse_idx(data: bytes, path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, 8 (uint8), rank, then big-endian sizes, then the values."""
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) >= 4 else 0
    if not rank or len(data) < 4 + 4 * rank:
        raise UserError(f"{path} is not an IDX file of bytes; get it again")
    shape = struct.unpack_from(f">{rank}I", data, 4)
    if len(data) - 4 - 4 * rank != np.prod(shape, dtype=np.int64):
        raise UserError(
            f"{path} is damaged: its header says {shape}, but {len(data) - 4 - 4 * rank} bytes follow; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 1] as an unfiltered grey PNG."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row is preceded by its filter, 0
    rows[:, 1:] = pixels[..., 0]
    return _png_header(height, width) + _png_chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _PNG_END


def _decode_pngs(pngs: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray | None:
    """uint8 [N, H, W, 1] of PNGs by `_encode_png`, five times as fast as Pillow; None if others are among them."""
    height, width, _ = shape
    header = _png_header(height, width)
    start, end = len(header) + 8, len(_PNG_END) + 4  # around the data: its length and kind, its checksum
    if not all(png.startswith(header) and png.endswith(_PNG_END) and png[start - 4 : start] == b"IDAT" for png in pngs):
        return None
    try:
        rows = np.frombuffer(b"".join(zlib.decompress(png[start:-end]) for png in pngs), np.uint8)
    except zlib.error:
        return None
    if rows.size != len(pngs) * height * (width + 1):
        return None
    rows = rows.reshape(-1, height, width + 1)
    return None if rows[..., 0].any() else np.ascontiguousarray(rows[..., 1:, None])


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(height: int, width: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


_PNG_END = _png_chunk(b"IEND", b"")


# Folders.


@contextlib.contextmanager
def _lock(root: Path, name: str) -> Iterator[None]:
    """Only one process at a time prepares a dataset; the lock goes with its process, however that ends."""
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / f".{name.partition('/')[0]}.lock").open("w")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise UserError(f"cannot write in {folder}: {reason}; free the space or choose another data_dir") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
