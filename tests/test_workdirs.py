"""Who may write to a workdir, and what of it is replaced."""

import dataclasses
import json
import os
import re

import pytest

from mnistlab import files
from mnistlab.comparison import identity, workdirs
from mnistlab.config import AugmentConfig, OptimConfig, TrainConfig
from mnistlab.errors import UserError


def settings(**changes):
    return {"config": json.loads(json.dumps(dataclasses.asdict(TrainConfig("dense", **changes)))), "learning_rates": []}


def test_a_tool_clears_its_own_folder_and_no_other(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.svg").write_text("")
    workdirs.leave(tmp_path, identity={"experiment": "compare"}, command="", title="", blocks=[], summary={})
    with pytest.raises(UserError, match="another run"), workdirs.made_anew(tmp_path, "power"):
        pass
    assert (tmp_path / "summary.json").exists()
    with workdirs.made_anew(tmp_path, "compare"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_run_may_grow_by_seeds_and_variants_and_by_nothing_else(tmp_path):
    def run(seeds, variants, protocol="reported"):
        variants = {name: settings(batch_size=size) for name, size in variants.items()}
        return {"experiment": "x", "protocol": protocol, "seeds": seeds, "variants": variants}

    def left(identity):
        workdirs.leave(tmp_path, identity=identity, command="", title="", blocks=[], summary={})

    assert not workdirs.check(tmp_path, run([0], {"a": 1}))
    left(run([0, 1], {"a": 1}) | {"tool": "gather"})
    with pytest.raises(UserError, match="tool gather -> none"):
        workdirs.check(tmp_path, run([0, 1, 2], {"a": 1}))
    left(run([0, 1], {"a": 1, "b": 2}))
    assert not workdirs.check(tmp_path, run([0, 1], {"b": 2, "a": 1}))
    assert workdirs.check(tmp_path, run([0, 1, 2], {"a": 1, "b": 2}))
    assert workdirs.check(tmp_path, run([0, 1, 2], {"a": 1, "c": 3, "b": 2}))
    for other, words in [
        (run([0], {"a": 1, "b": 2}), "(seeds 2 -> 1)"),
        (run([1, 2, 3], {"a": 1, "b": 2}), "(seed 0 -> 1)"),
        (run([0, 1, 2], {"a": 1}), "(variants a,b -> a)"),
        (run([0, 1, 2], {"a": 1, "b": 3, "c": 4}), "(b: batch_size 2 -> 3)"),
        (run([0, 1, 2], {"a": 1, "b": 2}, "controlled"), "(protocol reported -> controlled)"),
    ]:
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            workdirs.prepare(tmp_path, other, resume=True)
        line = str(caught.value)
        assert line.index("another --workdir") < line.index("--noresume")  # what loses nothing comes first
        assert (tmp_path / "report.html").exists()
    workdirs.prepare(tmp_path, run([0, 1, 2], {"a": 1, "b": 2}), resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}


def test_a_folder_that_holds_no_run_loses_nothing(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("")
    workdirs.prepare(tmp_path, {"experiment": "x"}, resume=False)
    assert (tmp_path / "figures" / "mine.svg").exists()


# Locks


def test_a_lock_that_is_a_link_or_no_file_is_refused_and_what_it_leads_to_is_whole(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    workdir = tmp_path / "run"
    workdir.mkdir()
    lock = workdir / ".lock"
    for target in (precious, tmp_path / "nothing"):
        lock.symlink_to(target)
        with pytest.raises(UserError, match="link"), workdirs.locked(workdir):
            pass
        lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(UserError, match="no regular file"), workdirs.locked(workdir):
        pass
    assert precious.read_text() == "precious" and not (tmp_path / "nothing").exists()


def test_a_lock_is_held_once_and_its_file_stays_as_it_is(tmp_path):
    (tmp_path / ".lock").write_text("a note")
    with workdirs.locked(tmp_path), pytest.raises(UserError, match="another run is writing"):
        workdirs.locked(tmp_path).__enter__()
    with workdirs.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == "a note"


def test_what_killed_writes_left_goes_and_nothing_else_does(tmp_path):
    ours = [".summary.json.abcd_123.json", "figures/.history_a.svg.abcdefgh.svg"]
    ours += ["checkpoints/dense/training/.parts.json.a1b2c3d4.json"]
    theirs = [".profile", ".summary.json.abcd_123.txt", "figures/.a.b.svg", ".notes.json", "figures/a.svg.abcdefgh.svg"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with workdirs.locked(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*theirs, ".lock"}


# Clearing

RUN = {"experiment": "x", "seeds": [0, 1], "variants": {"dense": settings()}}


@pytest.fixture
def run(tmp_path):
    """A folder with all that a run leaves."""
    folder = tmp_path / "run"
    workdirs.leave(folder, identity=RUN, command="", title="", blocks=[], summary={})
    for name in ("history.csv", "figures/a.svg", "tb/dense/events"):
        files.write_atomic(folder / name, "old")
    for kind in workdirs.CHECKPOINTS:
        files.write_atomic(folder / "checkpoints" / "dense" / kind / "1" / "data", "old")
    return folder


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_noresume_clears_all_of_a_run(run):
    workdirs.prepare(run, RUN, resume=False)
    assert left(run) == []


def test_what_says_of_which_run_the_rest_is_goes_last(run, monkeypatch):
    """Killed before any of its removals, clearing leaves either no checkpoints or their config.json."""
    remove, moments = files.remove, []

    def watched(path):
        moments.append(((run / "checkpoints" / "dense" / "last").exists(), (run / "config.json").exists()))
        remove(path)

    monkeypatch.setattr(files, "remove", watched)
    workdirs.prepare(run, RUN, resume=False)
    assert len(moments) > 5 and moments[-1] == (False, True)
    assert all(named for _, named in moments)


@pytest.mark.parametrize("num_removed", range(9))
def test_clearing_that_was_killed_is_repeated(run, monkeypatch, num_removed):
    remove, count = files.remove, iter(range(num_removed))

    def killed(path):
        if next(count, None) is None:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(files, "remove", killed)
    try:
        workdirs.prepare(run, RUN, resume=False)
    except KeyboardInterrupt:
        changed = {**RUN, "variants": {"dense": settings(num_epochs=2)}}
        with pytest.raises(UserError, match="epochs 20 -> 2"):
            workdirs.prepare(run, changed, resume=True)
    monkeypatch.setattr(files, "remove", remove)
    workdirs.prepare(run, RUN, resume=False)
    assert left(run) == []


def test_what_is_of_an_unnamed_run_is_refused_and_noresume_clears_it(run):
    (run / "config.json").unlink()
    for call in (
        lambda: workdirs.check(run, RUN),
        lambda: workdirs.prepare(run, RUN, resume=True),
        lambda: workdirs.belonging(run, "dense", "last"),
        lambda: workdirs.made_anew(run, "compare").__enter__(),
    ):
        with pytest.raises(UserError, match=r"no config\.json") as caught:
            call()
        assert "\n" not in str(caught.value)
    (run / "checkpoints" / "dense" / "mine").write_text("")
    workdirs.prepare(run, RUN, resume=False)
    assert left(run) == [".lock", "checkpoints", "figures", "tb"]  # who knows whose these are
    assert [path.name for path in (run / "checkpoints").rglob("*")] == ["dense", "mine"]


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/dense"])
def test_nothing_behind_a_link_is_cleared_and_nothing_stale_is_used(run, tmp_path, name):
    (run / name).rename(tmp_path / "large disk")
    (run / name).symlink_to(tmp_path / "large disk")
    workdirs.prepare(run, RUN, resume=True)
    with pytest.raises(UserError, match=r"is a link to .*large disk"):
        workdirs.prepare(run, RUN, resume=False)
    assert list((tmp_path / "large disk").rglob("data")) and (run / "config.json").exists()
    files.remove(tmp_path / "large disk")
    (tmp_path / "large disk").mkdir()
    workdirs.prepare(run, RUN, resume=False)
    assert "config.json" not in left(run)


def test_links_in_place_of_what_is_cleared_are_removed_themselves(run, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    for name in ("figures", "checkpoints/dense/last", "summary.json"):
        files.remove(run / name)
        (run / name).symlink_to(tmp_path / "precious")
    workdirs.prepare(run, RUN, resume=False)
    assert left(run) == [] and (tmp_path / "precious" / "file").exists()


def test_an_error_in_clearing_ends_the_run(run, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "remove", fail)
    with pytest.raises(UserError, match=r"cannot remove .*best: Permission denied"):
        workdirs.prepare(run, RUN, resume=False)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["FIFO", "device"])
def test_a_config_that_is_no_file_is_refused_at_once(run, make):
    (run / "config.json").unlink()
    make(run / "config.json")
    with pytest.raises(UserError, match="no regular file"):
        workdirs.check(run, RUN)
    workdirs.prepare(run, RUN, resume=False)
    assert left(run) == []


def test_a_folder_that_another_run_was_begun_in_is_not_the_one_that_was_locked(tmp_path):
    folder = tmp_path / "run"

    def begin():
        with workdirs.locked(folder):
            workdirs.write_config(folder, RUN, "", None)
            return workdirs.lock_of(folder)

    lock = begin()
    workdirs.check_there(folder, lock)
    folder.rename(tmp_path / "old")
    with pytest.raises(UserError, match="it was removed while the run went on"):
        workdirs.check_there(folder, lock)
    assert begin() != lock
    with pytest.raises(UserError, match="it was removed while the run went on"):
        workdirs.check_there(folder, lock)


def test_a_number_that_is_written_otherwise_is_the_same_run_with_the_same_digest(tmp_path):
    def run(rate):
        optimizer = json.loads(json.dumps(dataclasses.asdict(OptimConfig("adam", rate))))
        return {"seeds": [0], "variants": {"a": {"config": {"optimizer": optimizer}, "learning_rates": [rate, 3]}}}

    workdirs.write_config(tmp_path, workdirs.prepare(tmp_path, run(1), resume=True), "", None)
    digest = workdirs.belonging(tmp_path, "a", "last")
    workdirs.write_config(tmp_path, workdirs.prepare(tmp_path, run(1.0), resume=True), "", None)
    assert workdirs.belonging(tmp_path, "a", "last") == digest


# What a run is


def described(now, before=None):
    variants = {"a": settings(), "b": settings(batch_size=64)} if before is None else before
    return identity.describe_differences({"variants": variants}, {"variants": now})


def test_differences_are_said_in_flags_once_for_all_variants_and_a_handful_at_most():
    short = {"num_epochs": 2, "optimizer": OptimConfig(learning_rate=0.1)}
    both = {"a": settings(**short), "b": settings(**short, batch_size=64)}
    assert described(both) == "learning_rate 0.001 -> 0.1, epochs 20 -> 2"
    assert described({"a": settings(), "b": settings()}) == "b: batch_size 64 -> 128"
    assert described({"a": settings(loss="double_softmax"), "c": settings()}) == "variants a,b -> a,c"
    assert described({"a": settings(patience_epochs=3)}) == "variants a,b -> a, patience_epochs none -> 3"
    many = {
        "optimizer": OptimConfig("sgd", 0.1, momentum=0.9),
        "num_epochs": 1,
        "batch_size": 1,
        "split": "random_55_5",
    }
    line = described({"a": settings(**many)}, {"a": settings()})
    assert line.count(" -> ") == identity.NUM_NAMED and line.endswith(" and 1 more") and "optimizer adam -> sgd" in line


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "y"},
        {"protocol": "controlled"},
        {"sweep": {"learning_rate": [0.1, 0.2]}},
        {"data": "another fingerprint"},
        {"matmul_precision": "bfloat16"},
        {"seeds": [1, 2]},
        {"variants": {"dense": settings(num_epochs=2)}},
        {"variants": {"dense": settings(augment=AugmentConfig(shift_pixels=2))}},
        {"variants": {"dense": {**settings(), "learning_rates": [0.1]}}},
    ],
)
def test_a_checkpoint_belongs_to_a_run_of_these_settings(change):
    run = {"experiment": "x", "protocol": "reported", "seeds": [0, 1], "sweep": {}, "data": "f"}
    run |= {"matmul_precision": "backend's default", "variants": {"dense": settings()}}
    own = identity.digest(run, "dense", "last")
    assert identity.digest({**run, **change}, "dense", "last") != own
    assert identity.digest(run, "dense", "best") != own
    grown = {"seeds": [0, 1, 2], "variants": {**run["variants"], "more": settings()}}
    assert identity.digest({**run, **grown}, "dense", "last") == own
