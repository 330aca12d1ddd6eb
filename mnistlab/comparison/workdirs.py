"""Workdirs: one run holds one, what lies there is never replaced unasked, and what is left says where it comes from."""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistlab import files, sealed
from mnistlab.comparison import identity, revision
from mnistlab.errors import UserError, file_errors
from mnistlab.files import sha256, write_atomic
from mnistlab.report import page

if TYPE_CHECKING:
    from mnistlab.data.datasets import Dataset

FINDINGS = ("history.csv", "summary.json", "report.html")
CHECKPOINTS = ("training", "last", "best")  # in checkpoints/<variant>
ADVICE = "put back a copy of it or use another --workdir; --noresume starts this one again and loses its checkpoints"
"""Where a file is damaged without which a run cannot go on."""


def folder_name(experiment: str, protocol: str) -> str:
    """What a run's folder is called where nobody says otherwise.

    >>> folder_name("fashion_mlp", "reported"), folder_name("fashion_mlp", "controlled")
    ('fashion_mlp', 'fashion_mlp_controlled')
    """
    return experiment if protocol == "reported" else f"{experiment}_{protocol}"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds `workdir`, making it if need be, so that a second run in it is refused; clears what killed writes left.

    Raises:
      UserError: the folder cannot be written, or another process holds it.
    """
    with contextlib.ExitStack() as stack:
        with file_errors(f"cannot write to {workdir}", "choose another --workdir"):
            workdir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(os.fdopen(files.open_lock(workdir / ".lock")))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {workdir}; wait for it, or choose another --workdir") from error
        except OSError as error:
            raise UserError(f"cannot lock {workdir}: {error.strerror}; choose another --workdir") from error
        training = [path for path in _checkpoints(workdir) if path.name == "training"]
        for folder in (workdir, workdir / "figures", *training):
            with file_errors(f"cannot clean {folder}", "let it be written, or choose another --workdir"):
                files.remove_temporaries(folder)
        yield


def lock_of(workdir: Path) -> tuple[int, int]:
    """Which file `locked` holds there, whatever bears its name later."""
    about = (workdir / ".lock").stat()
    return about.st_dev, about.st_ino


def check_there(workdir: Path, lock: tuple[int, int]) -> None:
    """Ends a run whose folder was taken away: what it writes next would have no lock, or be in another run's folder.

    Raises:
      UserError: config.json, which every run writes first, is gone, or the file that it locked.
    """
    with contextlib.suppress(OSError):
        if lock_of(workdir) == lock and (workdir / "config.json").exists():
            return
    raise UserError(f"cannot write to {workdir}: it was removed while the run went on; start again in a new --workdir")


def prepare(workdir: Path, run: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Leaves in `workdir` what this run can go on from: nothing, itself, or itself with fewer seeds or variants.

    Returns:
      `run` in the words in which it stands there: of 1 and 1.0, which are the same, another digest is made.

    Raises:
      UserError: it holds another run, or what is to be cleared cannot be.
    """
    if not resume:
        _clear(workdir)
        return _jsonable(run)
    run, is_more = _compared(workdir, run)
    if is_more:  # than what was found there is of
        with file_errors(f"cannot write to {workdir}", "choose another --workdir, or let it be written"):
            for name in FINDINGS:
                (workdir / name).unlink(missing_ok=True)
    return run


def check(workdir: Path, run: Mapping[str, Any]) -> bool:
    """Whether `workdir` holds this run with fewer seeds or variants.

    Raises:
      UserError: it holds another run, or one of which nothing says what it is.
    """
    return _compared(workdir, run)[1]


def _compared(workdir: Path, run: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """`run` in the words in which it stands in `workdir`, and what `check` says of it; raises as that."""
    now: dict[str, Any] = _jsonable(run)
    earlier = _earlier(workdir, "use another --workdir, or --noresume to delete that run and start again")
    if earlier is None:
        return now, False
    grown = {key for key in ("seeds", "variants") if identity.has_grown(earlier.get(key), now.get(key))}
    own = {*grown, "seeds_of"}
    keys = [key for key in dict.fromkeys((*now, "tool")) if key not in own]  # what a tool made cannot be gone on with
    differing = identity.describe_differences(*({key: run.get(key) for key in keys} for run in (earlier, now)))
    if differing:
        raise UserError(
            f"{workdir} holds another run ({differing}); use another --workdir, or repeat that run's command to go on "
            "with it; --noresume would delete it"
        )
    is_more = bool(grown) or now.get("seeds_of") != earlier.get("seeds_of")
    return identity.in_words_of(earlier, now), is_more


def num_seeds(workdir: Path) -> dict[str, int]:
    """With how many seeds each variant in `workdir` was begun; nothing where it holds no run.

    Raises:
      UserError: config.json is missing or damaged.
    """
    run = _earlier(workdir, "use another --workdir, or --noresume to delete that run and start again") or {}
    if not isinstance(run.get("variants"), dict) or not isinstance(run.get("seeds"), list):
        return {}
    return {name: len(identity.seeds_of(run, name)) for name in run["variants"]}


def is_pruned(workdir: Path) -> bool:
    """Whether `prune` took from `workdir` what a run goes on from; the weights are there."""
    kept = _checkpoints(workdir)
    return any(path.name == "last" and path.parent / "training" not in kept for path in kept)


def belonging(workdir: Path, variant: str, part: str) -> str:
    """What a checkpoint in `workdir` must belong to, from the config.json beside it; `part` as identity.digest.

    Raises:
      UserError: config.json is missing, damaged, or of a run without this variant.
    """
    run = _earlier(workdir, "without it no checkpoint there can be used; put it back, or train again elsewhere")
    if run is None or not isinstance(run.get("variants"), dict) or variant not in run["variants"]:
        raise UserError(f"{workdir} holds no run with the variant {variant}; train first")
    return identity.digest(run, variant, part)


@contextlib.contextmanager
def made_anew(workdir: Path, tool: str) -> Iterator[None]:
    """Holds `workdir`, cleared of what `tool` left: unlike a run of training, that is made again in a moment.

    Raises:
      UserError: something else left its files there, or another process holds it.
    """
    with locked(workdir):
        if holds(workdir, tool):
            _clear(workdir)
        yield


def holds(workdir: Path, tool: str) -> bool:
    """Whether `workdir` holds what `tool` left; False where it holds nothing.

    Raises:
      UserError: something else left its files there.
    """
    earlier = _earlier(workdir, "use another --workdir")
    if earlier is not None and earlier.get("tool", earlier.get("experiment")) != tool:
        raise UserError(f"{workdir} holds another run; use another --workdir")
    return earlier is not None


def _earlier(workdir: Path, advice: str) -> dict[str, Any] | None:
    """What run config.json says that `workdir` holds.

    Raises:
      UserError: it cannot be read, or is missing where something of a run is left.
    """
    path = workdir / "config.json"
    if not os.path.lexists(path):
        left = [*_checkpoints(workdir), *(workdir / name for name in FINDINGS if os.path.lexists(workdir / name))]
        if left:
            raise UserError(f"{left[0]} is of a run, but no config.json beside says of which; {advice}")
        return None
    content = sealed.read(path, advice)
    if not isinstance(content, dict) or not isinstance(content.get("run"), dict):
        raise UserError(f"{path} is damaged (it has no object named run); {advice}")
    run, fewer = content["run"], content["run"].get("seeds_of", {})
    if not isinstance(fewer, dict) or not all(isinstance(own, list) for own in fewer.values()):
        raise UserError(f"{path} is damaged (its seeds_of is {fewer!r:.40}); {advice}")
    return run


def _checkpoints(workdir: Path) -> list[Path]:
    """The folders of checkpoints in `workdir`, checkpoints/<variant>/<training, last or best>."""
    folder = workdir / "checkpoints"
    with file_errors(f"cannot read {folder}", "let it be read, or use another --workdir"):
        variants = {variant: files.entries(variant) for variant in files.entries(folder)}
    return [path for paths in variants.values() for path in paths if path.name in CHECKPOINTS]


def _clear(workdir: Path) -> None:
    """Removes what any run leaves in `workdir`: checkpoints first, and last what says of which run they are.

    Killed at any moment, what is left is known by its config.json or is nothing.

    Raises:
      UserError: something cannot be removed, or checkpoints lie behind a link, where they may be anybody's.
    """
    checkpoints = _checkpoints(workdir)
    for path in checkpoints:
        for folder in (path.parent.parent, path.parent):
            if folder.is_symlink():
                raise UserError(
                    f"{folder} is a link to {folder.resolve()}, where checkpoints are; --noresume deletes nothing "
                    "behind a link: use another --workdir, or empty that folder yourself"
                )
    for path in checkpoints:
        _remove(path)
    for path in (*files.entries(workdir / "checkpoints"), workdir / "checkpoints"):
        with contextlib.suppress(OSError):  # there is more in it, which is not ours
            path.rmdir()
    named = os.path.lexists(workdir / "config.json")  # without, figures may be anybody's
    for name in (*(("figures", "tb", "wandb") if named else ()), *FINDINGS, "config.json"):
        _remove(workdir / name)


def _remove(path: Path) -> None:
    with file_errors(f"cannot remove {path}", "use another --workdir, or delete it yourself"):
        files.remove(path)


def leave(
    workdir: Path,
    *,
    identity: Mapping[str, Any],
    command: str,
    title: str,
    blocks: Sequence[page.Block],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes config.json, summary.json and report.html: what a tool leaves, and an experiment that trains nothing.

    Returns:
      What summary.json holds: `summary` with the format and the digests.

    Raises:
      UserError: the folder cannot be written, or another run holds it.
    """
    write_config(workdir, identity, command, None)
    return write_findings(workdir, title, blocks, summary)


def write_config(workdir: Path, identity: Mapping[str, Any], command: str, dataset: "Dataset | None") -> None:
    """config.json: what was resolved, and on what it runs."""
    data = (
        None
        if dataset is None
        else {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint}
    )
    content = {"run": _jsonable(identity), "command": command, "data": data, **provenance()}
    sealed.write(workdir / "config.json", content)


def write_findings(
    workdir: Path, title: str, blocks: Sequence[page.Block], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """summary.json, with digests of what it belongs to, and report.html; returns what summary.json holds."""
    text = page.html_page(title, blocks, _footer())
    written = sealed.write(workdir / "summary.json", summary, digests_beside(workdir))
    write_atomic(workdir / "report.html", text)
    return written


def digests_beside(workdir: Path) -> dict[str, str]:
    """Digests of what in `workdir` a summary belongs to, where it is there: the run of config.json, and history.csv.

    Not of all of config.json: a repeated run says there on what it runs before it writes its summary again.

    Raises:
      UserError: one of the two cannot be read.
    """
    digests = {}
    if (workdir / "config.json").exists():
        digests["config.json run"] = sealed.digest(_earlier(workdir, ADVICE))
    path = workdir / "history.csv"
    if path.exists():
        digests["history.csv"] = sha256(path.read_bytes())
    return digests


def _footer() -> str:
    about = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    device = about["device"]
    where = f"{device['count']} × {device['kind']} ({device['platform']})" if device else "without JAX"
    return f"{versions}; {where}; {revision.describe(about)}"


def provenance() -> dict[str, Any]:
    """Versions, device, precision, XLA's flags and code revision; without device where JAX was never loaded."""
    packages, device = ["numpy", "mnistlab"], None
    if "jax" in sys.modules:
        import jax

        first = jax.devices()[0]
        device = {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}
        packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", *packages]
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        "device": device,
        "matmul_precision": matmul_precision() if device else None,
        "xla_flags": os.environ.get("XLA_FLAGS") or None,
        **_own_revision(),
    }


@functools.cache
def _own_revision() -> dict[str, Any]:
    """Asked once: a process is of the code that it began with."""
    return revision.revision()


def _version(package: str) -> str:
    """A checkout on PYTHONPATH is no installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_words() -> str:
    """What a summary says of the first device: "cpu: cpu"."""
    import jax

    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def matmul_precision() -> str:
    """The precision of products that was asked for."""
    import jax

    return str(jax.config.values["jax_default_matmul_precision"] or "backend's default")


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))
