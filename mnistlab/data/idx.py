"""IDX archives: the files that MNIST and its relatives are published in, read and checked."""

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistlab import files
from mnistlab.errors import UserError

IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
PREFIXES = {"train": "train", "test": "t10k"}  # of the files of a split


class Split(NamedTuple):
    """N examples: what a network is given."""

    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]


def read_shipped(folder: Path) -> dict[str, Split]:
    """The splits in a folder of idx.gz files and SHA256SUMS (of the unpacked files).

    Raises:
      UserError: a file is missing or damaged.
    """
    names = ["SHA256SUMS", *(f"{prefix}-{kind}.gz" for prefix in PREFIXES.values() for kind in IDX_KINDS)]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; install mnistlab again")
    sums = {kind: digest for digest, kind in map(str.split, (folder / "SHA256SUMS").read_text().splitlines())}

    def unpack(kind: str) -> tuple[bytes, Path]:
        path = folder / f"{kind}.gz"
        data = gunzip(path.read_bytes(), path)
        if (got := files.sha256(data)) != sums.get(kind):
            raise UserError(
                f"{path} is damaged: SHA-256 unpacked {got}, expected {sums.get(kind)}; install mnistlab again"
            )
        return data, path

    return parse_splits(PREFIXES, unpack)


def parse_splits(prefixes: Mapping[str, str], unpack: Callable[[str], tuple[bytes, Path]]) -> dict[str, Split]:
    """The splits whose files are called by `prefixes`; unpack(file) gives its bytes and where they came from."""
    splits = {}
    for split, prefix in prefixes.items():
        image, label = (parse_idx(*unpack(f"{prefix}-{kind}")) for kind in IDX_KINDS)
        splits[split] = Split(image[..., None], label.astype(np.int32))
    return splits


def gunzip(data: bytes, path: Path) -> bytes:
    """`data` unpacked; `path` names it where it is damaged.

    Raises:
      UserError: it is damaged.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}; get it again") from error


def parse_idx(data: bytes, path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, 8 (uint8), rank, then big-endian sizes, then the values.

    Raises:
      UserError: it is no such file, or damaged.
    """
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) >= 4 else 0
    if not rank or len(data) < 4 + 4 * rank:
        raise UserError(f"{path} is not an IDX file of bytes; get it again")
    shape = struct.unpack_from(f">{rank}I", data, 4)
    if len(data) - 4 - 4 * rank != np.prod(shape, dtype=np.int64):
        raise UserError(
            f"{path} is damaged: its header says {shape}, but {len(data) - 4 - 4 * rank} bytes follow; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
