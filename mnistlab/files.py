"""Files that are either whole or absent, and regular files only."""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from mnistlab.errors import file_errors


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
    with file_errors(f"cannot write {path}", "free the space or choose a folder that can be written"):
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
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """mnistlab in $XDG_CACHE_HOME or else in ~/.cache, for what can be recreated."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnistlab"


def entries(folder: Path) -> list[Path]:
    """The entries of `folder`, sorted; none where there is no such folder.

    Raises:
      OSError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all in it; nothing behind a link.

    Raises:
      OSError: it cannot be removed, or not all of it.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Removes what `write_atomic` left in `folder` where it was killed; only for who alone may write there.

    Raises:
      OSError: a folder that cannot be read, or a file in it that cannot be removed.
    """
    for path in entries(folder):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


_TEMPORARY = re.compile(r"\..+(\.\w+)\.[a-z0-9_]{8}\1")  # .summary.json.k3_x9abc.json: mkstemp's letters are eight


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8; a FIFO or a device is refused at once, without waiting.

    Raises:
      OSError: no file, no regular file, or one that cannot be read.
      UnicodeDecodeError: no UTF-8.
    """
    with os.fdopen(_open_regular(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def open_lock(path: Path) -> int:
    """A descriptor of the file `path` to lock by: made if need be, never changed, never that of a link's target.

    Raises:
      OSError: a link, no regular file, or one that cannot be written.
    """
    try:
        return _open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} in it is a symbolic link", str(path)) from error
        raise


def _open_regular(path: Path, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{path.name} is no regular file", str(path))
    return handle


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()
