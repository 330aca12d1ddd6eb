"""Checkpoints through orbax, each with a digest: what is damaged is noticed, never used."""

import contextlib
import hashlib
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnistlab.errors import UserError

NUM_KEPT = 2  # the last, and the one before it in case the last is damaged


class Keeper:
    """Keeps a tree of arrays after each epoch, in the background, under one folder.

    A process killed while it writes leaves the previous checkpoint whole.
    """

    def __init__(self, folder: Path):
        """Raises UserError when `folder` cannot be made."""
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {folder}: {error.strerror}; choose another --workdir"
            ) from error
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(NUM_KEPT),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                # Each process would else wait for all others, and one alone writes.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(), active_processes={jax.process_index()}
                )
                if jax.process_count() > 1
                else ocp.options.MultiprocessingOptions(),
                create=False,
            ),
        )

    def save(self, epoch: int, tree: Any) -> None:
        """Starts to write `tree` as the state after `epoch`; waits only for an earlier write.

        Raises:
          UserError: the write failed, or a later epoch is there already.
        """
        tree = jax.device_get(_keys_to_data(tree))
        meta = {"epoch": epoch, "digest": digest(tree)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        with self._writing():
            saved = self.manager.save(epoch, args=arguments)
        if not saved:
            raise UserError(
                f"{self.folder} already holds epoch {epoch} or a later one; resume, or choose another --workdir"
            )

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The last whole (epoch, tree), on the host; None when nothing was kept.

        A damaged checkpoint is named in a warning and removed, and the one before it is used.

        Raises:
          UserError: checkpoints are there, and every one of them is damaged.
        """
        self.wait()
        epochs = sorted(self.manager.all_steps(), reverse=True)
        damaged: list[int] = []
        for epoch in epochs:
            tree = self._read(epoch, template)
            if tree is not None:
                for bad in damaged:
                    self.manager.delete(bad)
                return epoch, tree
            damaged.append(epoch)
            warnings.warn(f"the checkpoint {self.folder / str(epoch)} is damaged; trying the one before", stacklevel=2)
        if damaged:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged; delete that folder to train again from the start"
            )
        return None

    def wait(self) -> None:
        """Returns when everything that was saved is on disk; raises as `save`."""
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits and gives the threads back; raises as `save`."""
        with self._writing():
            self.manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the thread that writes failed of comes up here, in a later call."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot write a checkpoint to {self.folder}: {_reason(error)}; free the space and resume"
            ) from error

    def _read(self, epoch: int, template: Any) -> Any | None:
        target = jax.tree.map(np.asarray, jax.device_get(_keys_to_data(template)))
        try:
            restored = self.manager.restore(
                epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore())
            )
            tree = jax.tree.map(np.asarray, restored.state)
            if restored.meta["digest"] != digest(tree) or restored.meta["epoch"] != epoch:
                return None
        except Exception:  # orbax raises bare Exceptions on truncated data
            return None
        if jax.tree.map(np.shape, tree) != jax.tree.map(np.shape, target):
            raise UserError(f"{self.folder} holds another model's checkpoint; choose another --workdir")
        return _data_to_keys(tree, template)


def save_once(folder: Path, tree: Any) -> None:
    """Writes `tree` as the one checkpoint of `folder`, in place of an earlier one."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    keeper = Keeper(folder)
    keeper.save(0, tree)
    keeper.close()


def restore_once(folder: Path, template: Any) -> Any:
    """What `save_once` wrote.

    Raises:
      UserError: nothing is there, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"no checkpoint in {folder}; train first")
    keeper = Keeper(folder)
    kept = keeper.restore(template)
    keeper.close()
    if kept is None:
        raise UserError(f"no checkpoint in {folder}; train first")
    return kept[1]


def digest(tree: Any) -> str:
    """SHA-256 over the structure, shapes, types and bytes of a tree of host arrays."""
    value = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        value.update(f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)}".encode())
        value.update(array.reshape(-1).view(np.uint8).data)
    return value.hexdigest()


def _reason(error: Exception) -> str:
    """The last clause of what TensorStore says, without its annotations: the paths before it are ours.

    >>> _reason(ValueError("OUT_OF_RANGE: Failed writing: 'd': No space left on device [os_error_code='28']"))
    'No space left on device'
    """
    first = str(error).partition("\n")[0]
    return re.sub(r" \[\w+=.*", "", first).rpartition(": ")[2][:200]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _keys_to_data(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _data_to_keys(tree: Any, template: Any) -> Any:
    return jax.tree.map(
        lambda leaf, like: jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if _is_key(like) else leaf,
        tree,
        template,
    )
