"""TFDS datasets written and read without TensorFlow; the only importer of tensorflow_datasets.

The dataset on disk is the stock one (`tfds.builder(name, data_dir=...)` opens it); only the way there is ours.
tensorflow_datasets is imported when it is needed: it takes half a second.
"""

import contextlib
import io
import socket
import struct
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnistlab.data import idx
from mnistlab.data.idx import Split
from mnistlab.errors import UserError, one_line

FORMAT = "array_record"  # of the records, what can be read without TensorFlow


def make_builder(name: str, data_dir: Path, read: Callable[[Any, Any], Mapping[str, Split]]) -> Any:
    """The stock builder, except that `read` opens the archives and that images are encoded here."""
    import tensorflow_datasets as tfds

    dataset_name, _, config = name.partition("/")
    stock = tfds.builder_cls(dataset_name)

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg, misc, valid-type]
        name = dataset_name

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            return {split: _examples(*examples) for split, examples in read(self, dl_manager).items()}

    return Builder(data_dir=data_dir, config=config or None)


def stock_builder(name: str, data_dir: Path) -> Any:
    """The builder of any TFDS name, or of what is prepared under `data_dir`.

    Raises:
      UserError: TFDS knows no such dataset, and none is there.
    """
    import tensorflow_datasets as tfds

    try:
        with quiet():
            return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # of many types: no such name, version or configuration, a damaged copy
        reason = one_line(error).partition(" Available")[0]  # what follows is every name of TFDS
        raise UserError(f"unknown dataset {name!r:.80} ({reason:.80})") from error


def prepare(builder: Any, downloads: Path, manual_dir: Path | None) -> None:
    """Writes the dataset's records; `downloads` is the folder for what is fetched on the way."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_dir=downloads, download_config=config, file_format=FORMAT)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what TFDS prints, draws and warns about, which is of no use to the user."""
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


def data_source(builder: Any, split: str) -> Any:
    """The records of a split, not parsed."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def features(source: Any, index: Sequence[int]) -> list[Any]:
    """The parsed records at `index`, feature by name."""
    from tensorflow_datasets.proto import tf_example_pb2

    records = source.__getitems__(index)  # in bulk: five times as fast as one by one
    return [tf_example_pb2.Example.FromString(record).features.feature for record in records]


def labels(features: Sequence[Any]) -> np.ndarray:
    """int32 [N] of parsed records."""
    return np.array([feature["label"].int64_list.value[0] for feature in features], np.int32)


def decode(builder: Any, source: Any, index: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, H, W, C] and int32 [N] of a data source's examples at `index`."""
    records = features(source, index)
    pngs = [record["image"].bytes_list.value[0] for record in records]
    image_feature = builder.info.features["image"]
    image = _decode_pngs(pngs, image_feature.shape)
    if image is None:
        image = np.stack([image_feature.decode_example_np(png) for png in pngs])
    return image, labels(records)


def file_order(split: str, num_examples: int) -> np.ndarray:
    """Where TFDS put a file's examples: int32 [N]; it sorts them by a hash of their index, salted with the split."""
    from tensorflow_datasets.core import hashing

    hash_key = hashing.Hasher(split).hash_key
    hashes = [hash_key(index) for index in range(num_examples)]
    file_order = np.empty(num_examples, np.int32)
    file_order[sorted(range(num_examples), key=hashes.__getitem__)] = np.arange(num_examples, dtype=np.int32)
    return file_order


class SourceImages:
    """The images of a TFDS data source as an array [N, H, W, C] that is read and decoded where it is indexed."""

    def __init__(self, builder: Any, split: str):
        self._builder, self._source = builder, data_source(builder, split)
        self.shape = (len(self._source), *builder.info.features["image"].shape)
        self.dtype = np.dtype(builder.info.features["image"].np_dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        image, _ = decode(self._builder, self._source, chosen.ravel().tolist())
        return image.reshape(*chosen.shape, *self.shape[1:])


def read_originals(builder: Any, downloads: Any, manual_dir: Path | None) -> dict[str, Split]:
    """The splits of the files that the stock builder would download; TFDS checks their SHA-256.

    As the stock builder does, only the first examples are taken of an EMNIST file that holds more than its config says.

    Raises:
      UserError: a file that cannot be had, that is damaged, or that holds other than its header says.
    """
    config = builder.builder_config
    if config is None:
        names = [f"{prefix}-{kind}.gz" for prefix in idx.PREFIXES.values() for kind in idx.IDX_KINDS]
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
    except Exception as error:  # from socket, requests, urllib3 or TFDS
        reason = one_line(error).partition(" To debug")[0]
        if "checksum" in reason:
            raise UserError(f"wrong file: {reason}") from error
        raise UserError(
            f"cannot download {builder.name}: {reason}; without a network, put {origin} into a folder and give it "
            "to mnistlab.load as manual_dir, which prepares it for every later run"
        ) from error
    if config is None:
        return idx.parse_splits(idx.PREFIXES, lambda kind: (idx.gunzip((p := paths[f"{kind}.gz"]).read_bytes(), p), p))
    (path,) = paths.values()
    prefixes = {split: f"emnist-{config.name}-{split}" for split in idx.PREFIXES}
    try:
        with zipfile.ZipFile(path) as archive:
            splits = idx.parse_splits(
                prefixes, lambda kind: (idx.gunzip(archive.read(m := f"gzip/{kind}.gz"), path / m), path / m)
            )
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}; get it again") from error
    counts = {"train": config.train_examples, "test": config.test_examples}
    return {split: Split(*(array[: counts[split]] for array in splits[split])) for split in counts}


def _probe(url: str) -> None:
    """Raises OSError at once where TFDS would retry for minutes to reach the host of `url`."""
    parts = urllib.parse.urlsplit(url)
    if not urllib.request.getproxies() and parts.hostname:
        with socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 20):
            pass


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
