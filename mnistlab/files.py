"""Files that are either whole or absent."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mnistlab.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes `content` under a temporary name, flushes it to disk, then renames it to `path`.

    Raises:
      UserError: the folder cannot be written or the disk is full; an earlier file at `path` is left as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    write_atomic_with(path, lambda temporary: temporary.write_bytes(data))


def write_atomic_with(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary)`, which must leave a file there, then renames it to `path`.

    Raises:
      UserError: as `write_atomic`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}; free the space or choose a folder that can be written"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()
