import os
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mnistlab.errors import UserError
from mnistlab.files import sha256
from mnistlab.training import checkpoint

RUN = sha256(b"a run")


def make_tree(value=0.0):
    return {
        "kernel": np.full((300, 7), value, np.float32) + np.arange(7, dtype=np.float32),
        "rng": jax.random.key_data(jax.random.key(int(value))),
        "active": np.array([True, False]),
        "step": np.int32(7) + np.zeros([], np.int32),
        "count": jnp.arange(3),
        "nothing": {},
        "pair": (np.full(2, value, np.float64), np.ones(1, np.uint8)),
    }


def equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def open_keeper(tmp_path):
    keepers = []

    def keeper():
        keepers.append(checkpoint.Keeper(tmp_path / "kept", RUN))
        return keepers[-1]

    yield keeper
    for each in keepers:
        each.close()


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A folder with the checkpoints 1 and 2, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("two_epochs") / "kept"
    keeper = checkpoint.Keeper(folder, RUN)
    keeper.save(1, make_tree(1))
    keeper.save(2, make_tree(2))
    keeper.close()
    return folder


@pytest.fixture
def copied(two_epochs, tmp_path):
    return shutil.copytree(two_epochs, tmp_path / "kept")


def test_nothing_was_kept(open_keeper):
    assert open_keeper().restore(make_tree()) is None


def test_round_trip(open_keeper):
    writer = open_keeper()
    writer.save(3, make_tree(5))
    writer.wait()
    epoch, tree = open_keeper().restore(make_tree())
    assert epoch == 3
    equal(tree, make_tree(5))
    assert jax.random.bits(jax.random.wrap_key_data(tree["rng"])) == jax.random.bits(jax.random.key(5))


def test_a_typed_key_comes_back_as_the_key_that_it_was(open_keeper):
    kept = {"noise": jax.random.key(5), "all": jax.random.split(jax.random.key(1, impl="rbg"), 3)}
    writer = open_keeper()
    writer.save(1, kept)
    writer.wait()
    _, tree = open_keeper().restore(jax.tree.map(lambda key: key, kept))
    for name, key in kept.items():
        assert tree[name].dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(tree[name]), jax.random.key_data(key))


def test_the_last_two_are_kept(open_keeper, tmp_path):
    keeper = open_keeper()
    for epoch in (1, 2, 3, 4):
        keeper.save(epoch, make_tree(epoch))
    keeper.wait()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["3", "4"]
    equal(keeper.restore(make_tree())[1], make_tree(4))


def test_what_a_killed_process_did_not_come_to_delete_is_deleted(copied):
    shutil.copytree(copied / "1", copied / "0")
    delete(data_files(copied / "0")[0])  # or not all of it
    keeper = checkpoint.Keeper(copied, RUN)
    equal(keeper.restore(make_tree())[1], make_tree(2))
    keeper.close()
    assert sorted(path.name for path in copied.iterdir()) == ["1", "2"]


def test_an_older_epoch_is_refused(open_keeper):
    keeper = open_keeper()
    keeper.save(2, make_tree())
    keeper.wait()
    for epoch in (1, 2):
        with pytest.raises(UserError, match=f"epoch {epoch}"):
            keeper.save(epoch, make_tree())


def data_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_damage_is_named_and_the_checkpoint_before_is_used(copied, damage):
    largest = max(data_files(copied / "2"), key=lambda path: path.stat().st_size)
    damage(largest)
    keeper = checkpoint.Keeper(copied, RUN)
    with pytest.warns(UserWarning) as caught:
        epoch, tree = keeper.restore(make_tree())
    assert any(str(copied / "2") in str(warning.message) for warning in caught)
    assert epoch == 1
    equal(tree, make_tree(1))
    keeper.save(2, make_tree(20))  # the damaged one is gone: training goes on
    equal(keeper.restore(make_tree())[1], make_tree(20))
    keeper.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax, of its own threads
def test_whatever_byte_is_flipped_the_numbers_are_right(two_epochs, tmp_path):
    for number, path in enumerate(data_files(two_epochs / "2")):
        copy = shutil.copytree(two_epochs, tmp_path / str(number))
        if path.stat().st_size:
            flip(copy / path.relative_to(two_epochs))
        keeper = checkpoint.Keeper(copy, RUN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            epoch, tree = keeper.restore(make_tree())
        keeper.close()
        equal(tree, make_tree(epoch))


def test_if_all_are_damaged_the_user_is_told(copied):
    for epoch in ("1", "2"):
        flip(max(data_files(copied / epoch), key=lambda path: path.stat().st_size))
    keeper = checkpoint.Keeper(copied, RUN)
    with pytest.warns(UserWarning), pytest.raises(UserError, match="every checkpoint"):
        keeper.restore(make_tree())
    keeper.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        checkpoint.Keeper(tmp_path / "file" / "kept", RUN)


def test_save_once_replaces(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.restore_once(folder, make_tree(), RUN)
    for value in (1, 2):
        checkpoint.save_once(folder, make_tree(value), RUN)
    equal(checkpoint.restore_once(folder, make_tree(), RUN), make_tree(2))


def refused(folder, template, run=RUN):
    """With what line `folder` is not restored; it must be whole after, and nothing be called damaged."""
    before = {path: path.read_bytes() for path in data_files(folder)}
    keeper = checkpoint.Keeper(folder, run)
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("error")
        keeper.restore(template)
    keeper.close()
    assert {path: path.read_bytes() for path in data_files(folder)} == before
    line = str(caught.value)
    assert "\n" not in line and "damaged" not in line and str(folder / "2") in line and "--workdir" in line
    return line


def test_another_runs_checkpoint_is_refused_and_not_called_damaged(copied):
    assert "another run's" in refused(copied, make_tree(), sha256(b"another run"))


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": np.zeros((300, 8), np.float32)},
        {"kernel": np.zeros((300, 7), np.float64)},
        {"more": np.zeros(1)},
        {"pair": {"a": np.zeros(2)}},
    ],
    ids=["shape", "dtype", "leaf", "structure"],
)
def test_another_models_checkpoint_is_refused_and_not_called_damaged(copied, change):
    assert "another model" in refused(copied, {**make_tree(), **change})


def test_whatever_byte_of_what_a_checkpoint_belongs_to_is_flipped_it_is_damage(copied):
    path = copied / "2" / "meta" / "metadata"
    whole = path.read_bytes()
    for place in range(0, len(whole), 9):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        keeper = checkpoint.Keeper(copied, RUN)
        assert keeper._read(2, make_tree()) is None
        keeper.close()


def test_a_fifo_in_a_checkpoint_is_damage_and_not_waited_for(copied):
    for path in (copied / "2" / "meta" / "metadata", copied / "1" / "state" / "manifest.ocdbt"):
        path.unlink()
        os.mkfifo(path)
        keeper = checkpoint.Keeper(copied, RUN)
        assert keeper._read(int(path.relative_to(copied).parts[0]), make_tree()) is None
        keeper.close()


@pytest.mark.parametrize(
    "error, reason",
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (ValueError("PERMISSION_DENIED: Error opening 'zarr': not allowed [os_error_code='13']"), "not allowed"),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_damage(copied, monkeypatch, error, reason):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    assert f": {reason}; " in refused(copied, make_tree())


@pytest.mark.parametrize("error", [MemoryError(), TypeError("a bug"), AttributeError("another release of orbax")])
def test_a_fault_of_the_code_is_not_taken_for_damage(copied, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    keeper = checkpoint.Keeper(copied, RUN)
    with pytest.raises(type(error)):
        keeper.restore(make_tree())
    keeper.close()
    assert {path.name for path in copied.iterdir()} == {"1", "2"}


def test_save_once_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "precious").write_text("")
    (tmp_path / "last").symlink_to(tmp_path / "else")
    checkpoint.save_once(tmp_path / "last", make_tree(1), RUN)
    equal(checkpoint.restore_once(tmp_path / "last", make_tree(), RUN), make_tree(1))
    assert [path.name for path in (tmp_path / "else").iterdir()] == ["precious"]


# The digest


def small():
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.ones(2, bool), np.zeros([], np.int32))}


@pytest.mark.parametrize(
    "place", [(name, index) for name, size in (("a", 6), ("b0", 2), ("b1", 1)) for index in range(size)]
)
def test_the_digest_sees_every_element(place):
    tree = small()
    leaf = {"a": tree["a"], "b0": tree["b"][0], "b1": tree["b"][1]}[place[0]]
    flat = leaf.reshape(-1).view(np.uint8)
    flat[place[1] * leaf.itemsize] ^= 1
    assert checkpoint.digest(tree) != checkpoint.digest(small())


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3).view(np.int32)},
        {"b": [np.ones(2, bool), np.zeros([1], np.int32)]},
        {"c": np.zeros([], np.int32)},
    ],
    ids=["shape", "dtype", "rank", "leaf"],
)
def test_the_digest_sees_shape_type_and_structure(change):
    assert checkpoint.digest({**small(), **change}) != checkpoint.digest(small())


def test_the_digest_sees_which_leaf_is_which():
    assert checkpoint.digest({"a": np.ones(1), "b": np.zeros(1)}) != checkpoint.digest(
        {"a": np.zeros(1), "b": np.ones(1)}
    )


def test_the_digest_is_of_the_numbers_not_of_the_memory():
    array = np.arange(6.0).reshape(2, 3)
    assert checkpoint.digest({"a": np.asfortranarray(array)}) == checkpoint.digest({"a": array})
