"""Workdirs: one run holds one, what lies there is never replaced unasked, and what is left says where it comes from."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mnistlab.comparison import revision
from mnistlab.config import AugmentConfig
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError
from mnistlab.files import write_atomic
from mnistlab.report import report

FINDINGS = ("history.csv", "summary.json", "report.html")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds `workdir`, making it if need be, so that a second run in it is refused.

    Raises:
      UserError: the folder cannot be written, or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another run is writing to {workdir}; wait for it, or choose another --workdir") from error
        yield


def prepare(workdir: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Leaves in `workdir` what this run can go on from: nothing, itself, or itself with fewer seeds or variants.

    Raises:
      UserError: it holds another run.
    """
    if not (workdir / "config.json").exists():
        return
    if not resume:
        _clear(workdir)
    elif check(workdir, identity):  # what was found is of too few
        for name in FINDINGS:
            (workdir / name).unlink(missing_ok=True)


def check(workdir: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `workdir` holds this run with fewer seeds or variants.

    Raises:
      UserError: it holds another run.
    """
    if not (workdir / "config.json").exists():
        return False
    earlier = _earlier(workdir, "use --noresume to start again, or another --workdir")
    if isinstance(earlier.get("variants"), dict):  # a run of before there was augmentation had none
        for variant in earlier["variants"].values():
            if isinstance(variant, dict) and isinstance(variant.get("config"), dict):
                variant["config"].setdefault("augment", dataclasses.asdict(AugmentConfig()))
    now = _jsonable(identity)
    grown = {key for key in ("seeds", "variants") if _has_grown(earlier.get(key), now.get(key))}
    keys = dict.fromkeys((*now, "tool"))  # what a tool made has no checkpoints to go on from
    differing = [key for key in keys if earlier.get(key) != now.get(key) and key not in grown]
    if differing:
        raise UserError(
            f"{workdir} holds another run (its {', '.join(differing)} differ); "
            "use another --workdir, or --noresume to replace it"
        )
    return bool(grown)


def _has_grown(before: Any, now: Any) -> bool:
    """Whether `now` is all of `before`, a list's beginning or entries of an object, and more."""
    if isinstance(before, list) and isinstance(now, list):
        return len(now) > len(before) and now[: len(before)] == before
    if isinstance(before, dict) and isinstance(now, dict):
        return len(now) > len(before) and all(now.get(name) == value for name, value in before.items())
    return False


@contextlib.contextmanager
def made_anew(workdir: Path, tool: str) -> Iterator[None]:
    """Holds `workdir`, cleared of what `tool` left: unlike a run of training, that is made again in a moment.

    Raises:
      UserError: something else left its files there, or another process holds it.
    """
    with locked(workdir):
        if (workdir / "config.json").exists():
            earlier = _earlier(workdir, "use another --workdir")
            if earlier.get("tool", earlier.get("experiment")) != tool:
                raise UserError(f"{workdir} holds another run; use another --workdir")
            _clear(workdir)
        yield


def _earlier(workdir: Path, advice: str) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        earlier = json.loads(path.read_text())["run"]
        if not isinstance(earlier, dict):
            raise TypeError("its run is no object")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!s:.200}); {advice}") from error
    return earlier


def _clear(workdir: Path) -> None:
    """Removes what any run leaves in `workdir`."""
    for name in ("config.json", *FINDINGS):
        (workdir / name).unlink(missing_ok=True)
    for name in ("checkpoints", "figures", "tb"):
        shutil.rmtree(workdir / name, ignore_errors=True)


def leave(
    workdir: Path,
    *,
    identity: Mapping[str, Any],
    command: str,
    title: str,
    blocks: Sequence[report.Block],
    summary: Mapping[str, Any],
    dataset: Dataset | None = None,
) -> None:
    """Writes config.json, summary.json and report.html: what every experiment leaves, one that trains nothing too.

    Raises:
      UserError: the folder cannot be written, or another run holds it.
    """
    write_config(workdir, identity, command, dataset)
    write_findings(workdir, title, blocks, summary)


def write_config(workdir: Path, identity: Mapping[str, Any], command: str, dataset: Dataset | None) -> None:
    """config.json: what was resolved, and on what it runs."""
    data = (
        None
        if dataset is None
        else {"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint}
    )
    content = {"run": _jsonable(identity), "command": command, "data": data, **provenance()}
    write_atomic(workdir / "config.json", json.dumps(content, indent=2) + "\n")


def write_findings(workdir: Path, title: str, blocks: Sequence[report.Block], summary: Mapping[str, Any]) -> None:
    """summary.json and report.html."""
    write_atomic(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(workdir / "report.html", report.html_page(title, blocks, _footer()))


def _footer() -> str:
    about = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    device = about["device"]
    return f"{versions}; {device['count']} × {device['kind']} ({device['platform']}); {revision.describe(about)}"


def provenance() -> dict[str, Any]:
    """Versions, device, precision, XLA's flags and code revision."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "mnistlab")
    device = jax.devices()[0]
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"] or "backend's default"),
        "xla_flags": os.environ.get("XLA_FLAGS") or None,
        **revision.revision(),
    }


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))
