import hashlib
import os
import stat
from pathlib import Path

import pytest

from mnistlab import files
from mnistlab.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content, expected", [("naïve\n", "naïve\n".encode()), (b"\0\xff", b"\0\xff"), ("", b"")])
def test_what_is_written_is_read(tmp_path, content, expected):
    path = tmp_path / "new" / "folder" / "file.txt"
    files.write_atomic(path, content)
    assert path.read_bytes() == expected
    assert names(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_second_write_replaces_the_first(tmp_path):
    path = tmp_path / "file.txt"
    files.write_atomic(path, "first, and longer")
    files.write_atomic(path, "second")
    assert path.read_text() == "second"
    assert names(tmp_path) == ["file.txt"]


def test_the_writer_sees_the_suffix_and_a_file_that_is_not_the_target(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("old")

    def write(temporary):
        assert temporary.suffix == ".png" and temporary.parent == tmp_path and temporary != path
        assert path.read_text() == "old"  # whole until the rename
        temporary.write_text("new")

    files.write_atomic_with(path, write)
    assert path.read_text() == "new"


def fail_after_half(error):
    def write(temporary):
        temporary.write_text("half")
        raise error

    return write


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"file\.txt.*No space left"):
        files.write_atomic_with(path, fail_after_half(OSError(28, "No space left on device")))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("a bug in the writer"), KeyboardInterrupt()])
def test_any_other_error_passes_through_and_leaves_no_litter(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        files.write_atomic_with(path, fail_after_half(error))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="cannot write") as caught:
        files.write_atomic(tmp_path / "file" / "below.txt", "new")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_files_place_is_an_error(tmp_path):
    (tmp_path / "file.txt" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write"):
        files.write_atomic(tmp_path / "file.txt", "new")
    assert names(tmp_path) == ["file.txt"]


def test_a_text_is_read_from_a_regular_file_alone(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes("naïve\n".encode())
    assert files.read_text(path) == "naïve\n"
    (tmp_path / "link.txt").symlink_to(path)
    assert files.read_text(tmp_path / "link.txt") == "naïve\n"
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):  # what would wait, or never end
        with pytest.raises(OSError, match="no regular file"):
            files.read_text(other)
    with pytest.raises(FileNotFoundError):
        files.read_text(tmp_path / "nothing")


def test_sha256():
    assert files.sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
