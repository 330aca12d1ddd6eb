"""Checkpoints through orbax, each with a digest: what is damaged is noticed, never used."""

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnistlab import files
from mnistlab.errors import UserError, file_errors

NUM_KEPT = 2  # the last, and the one before it in case the last is damaged


class Keeper:
    """Keeps a tree of arrays after each epoch, in the background, under one folder.

    A process killed while it writes leaves the previous checkpoint whole.
    """

    def __init__(self, folder: Path, run: str):
        """Of the run `run`, a digest: it is written into every checkpoint, and one that holds another is refused.

        Raises:
          UserError: `folder` cannot be made or read.
        """
        self.folder = Path(folder).absolute()
        self.run = run
        with file_errors(f"cannot write checkpoints to {folder}", "choose another --workdir, or let it be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=ocp.checkpoint_managers.LatestN(NUM_KEPT),
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    # Otherwise each process would wait for all others, and only one writes.
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
        tree = jax.device_get(plain(tree))
        meta = {"epoch": epoch, "digest": digest(ocp.tree.to_flat_dict(tree)), "run": self.run}
        meta["of_this"] = _digest_of_meta(meta)
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        with self._writing():
            saved = self.manager.save(epoch, args=arguments)
        if not saved:
            raise UserError(
                f"{self.folder} already holds epoch {epoch} or a later one; resume, or choose another --workdir"
            )

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The last whole (epoch, tree), on the host; None when nothing was kept.

        The tree has the structure of `template`; where that is None, of nested dictionaries.

        A damaged checkpoint is named in a warning and removed, and the one before it is used. Older ones than are kept
        are removed: a killed process may not have removed them.

        Raises:
          UserError: checkpoints are there, and one is another run's or cannot be read, or every one is damaged.
        """
        self.wait()
        damaged: list[int] = []
        epochs = sorted(self.manager.all_steps(), reverse=True)
        for number, epoch in enumerate(epochs):
            tree = self._read(epoch, template)
            if tree is not None:
                with self._writing():
                    for other in (*damaged, *epochs[number + NUM_KEPT :]):
                        self.manager.delete(other)
                return epoch, tree
            damaged.append(epoch)
            warnings.warn(f"the checkpoint {self.folder / str(epoch)} is damaged; trying the one before", stacklevel=2)
        if damaged:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged; put a copy of that folder in its place, or delete it "
                "to train again from the start"
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
        """An error of the writing thread is raised here, in a later call."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot write a checkpoint to {self.folder}: {_reason(error)}; mend that and repeat the command, "
                "which goes on from the checkpoint before"
            ) from error

    def _read(self, epoch: int, template: Any) -> Any | None:
        """The tree of a checkpoint; None where it is damaged.

        Raises:
          UserError: it is whole, but another run's or of other shapes; or it cannot be read.
        """
        step = self.folder / str(epoch)
        unreadable, advice = f"cannot read the checkpoint {step}", "let it be read, or choose another --workdir"
        with file_errors(unreadable, advice):
            meta = _read_meta(step)
        if meta is None:
            return None
        if meta["run"] != self.run:
            raise UserError(
                f"the checkpoint {step} is another run's; choose another --workdir, or --noresume to delete it"
            )
        try:
            state = ocp.args.Composite(state=ocp.args.StandardRestore())  # as it was written, whatever is wanted
            kept = ocp.tree.to_flat_dict(self.manager.restore(epoch, args=state).state)
        except Exception as error:  # for truncated data orbax raises a bare one
            if _is_damage(error):
                return None
            if isinstance(error, OSError | ValueError):
                raise UserError(f"{unreadable}: {_reason(error)}; {advice}") from error
            raise
        if meta["digest"] != digest(kept) or meta["epoch"] != epoch:
            return None
        if template is None:
            return ocp.tree.from_flat_dict(dict(kept))
        target = jax.tree.map(np.asarray, jax.device_get(plain(template)))
        if _layout(kept) != _layout(ocp.tree.to_flat_dict(target)):
            raise UserError(
                f"the checkpoint {step} is of another model, number of seeds or release; choose another --workdir, or "
                "--noresume to delete it"
            )
        return jax.tree.map(_as_it_was, template, ocp.tree.from_flat_dict(kept, target))


def plain(tree: Any) -> Any:
    """`tree` with its typed random keys, which an optimiser may hold, as what they consist of."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _as_it_was(before: Any, leaf: Any) -> Any:
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(before)) if _is_key(before) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_once(folder: Path, tree: Any, run: str) -> None:
    """Writes `tree` as the one checkpoint of `folder` and of `run`, in place of an earlier one or of a link.

    Raises:
      UserError: the folder cannot be replaced or written.
    """
    with file_errors(f"cannot replace {folder}", "let it be written and repeat the command: nothing is trained again"):
        files.remove(folder)
    keeper = Keeper(folder, run)
    keeper.save(0, tree)
    keeper.close()


def restore_once(folder: Path, template: Any, run: str) -> Any:
    """What `save_once` wrote for the same `run`.

    Raises:
      UserError: nothing is there, or it is damaged or another run's.
    """
    if not folder.is_dir():
        raise UserError(f"no checkpoint in {folder}; train first")
    keeper = Keeper(folder, run)
    kept = keeper.restore(template)
    keeper.close()
    if kept is None:
        raise UserError(f"no checkpoint in {folder}; train first")
    return kept[1]


def _read_meta(step: Path) -> dict[str, Any] | None:
    """What was written beside the arrays; None where it is damaged, or files are missing or no files."""
    if not all(path.is_file() or path.is_dir() for path in step.rglob("*")):  # a FIFO would be waited for
        return None
    if not (step / "meta" / "metadata").is_file():
        return None
    try:
        meta = json.loads(files.read_text(step / "meta" / "metadata"))
        whole = meta.pop("of_this") == _digest_of_meta(meta)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return meta if whole else None


def _digest_of_meta(meta: dict[str, Any]) -> str:
    return files.sha256(json.dumps(meta, sort_keys=True).encode())


def _layout(flat: dict[Any, Any]) -> dict[Any, Any]:
    return {name: (np.shape(leaf), np.asarray(leaf).dtype) for name, leaf in flat.items()}


def _is_damage(error: Exception) -> bool:
    """Whether a read failed of the files' content: not of permissions or descriptors, nor of a fault of the code."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
    if str(error).startswith(("PERMISSION_DENIED", "RESOURCE_EXHAUSTED")):  # TensorStore's
        return False
    return type(error) is Exception or isinstance(error, ValueError | LookupError | AssertionError)


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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = str(error).partition("\n")[0]
    return re.sub(r" \[\w+=.*", "", first).rpartition(": ")[2][:200]
