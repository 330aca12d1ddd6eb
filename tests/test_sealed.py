"""JSON that carries a digest of itself: what it says is what was written, or it is refused."""

import json
import os

import pytest

from mnistlab import sealed
from mnistlab.errors import UserError

CONTENT = {"b": [1, 2.5, None, "é", {"a": 1e-17}], "a": True}


def test_what_is_read_is_what_was_written(tmp_path):
    written = sealed.write(tmp_path / "x.json", CONTENT, {"other.csv": "12"})
    assert sealed.read(tmp_path / "x.json", "") == written == json.loads((tmp_path / "x.json").read_text())
    assert {name: written[name] for name in CONTENT} == CONTENT
    assert written["format"] == 2 and written["digests"]["other.csv"] == "12"
    (tmp_path / "x.json").rename(tmp_path / "y.json")
    assert sealed.read(tmp_path / "y.json", "") == written


def test_what_was_read_is_sealed_anew(tmp_path):
    first = sealed.write(tmp_path / "x.json", CONTENT, {"other.csv": "12"})
    sealed.write(tmp_path / "x.json", first | {"a": False})
    read = sealed.read(tmp_path / "x.json", "")
    assert read["a"] is False and list(read["digests"]) == [sealed.OWN]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(a=1),  # 1 is True in Python, and not in JSON
        lambda content: content.update(b=content["b"][::-1]),
        lambda content: content.update(c=None),
        lambda content: content.pop("a"),
        lambda content: content.pop("format"),
        lambda content: content.pop("digests"),
        lambda content: content.update(format=1),
        lambda content: content.update(digests=[]),
        lambda content: content["digests"].pop(sealed.OWN),
        lambda content: content["digests"].update({"other.csv": "13"}),
        lambda content: content.update(a=content.pop("a"), b=content.pop("b")),  # their order is used as well
    ],
)
def test_what_was_changed_is_refused(tmp_path, change):
    path = tmp_path / "x.json"
    content = dict(sealed.write(path, CONTENT, {"other.csv": "12"}))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"x.json is damaged \(it was changed .*; do this"):
        sealed.read(path, "do this")


def test_a_file_from_before_there_were_digests_is_believed(tmp_path):
    for content in ({"run": 1}, [[2, 2]]):
        (tmp_path / "x.json").write_text(json.dumps(content))
        assert sealed.read(tmp_path / "x.json", "") == content


def test_a_later_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "FORMAT", 3)
    sealed.write(tmp_path / "x.json", CONTENT)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format is 3, not 2: another release wrote it"):
        sealed.read(tmp_path / "x.json", "")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_what_is_no_json_is_one_line(tmp_path, damage):
    (tmp_path / "x.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"x.json is damaged") as caught:
        sealed.read(tmp_path / "x.json", "")
    assert str(caught.value).isprintable()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(UserError, match="no regular file"):
        sealed.read(tmp_path / "x.json", "")
