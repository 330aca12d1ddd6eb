"""The runs under a folder: what each is, when it was, what came out and what it takes on disk."""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnistlab import files
from mnistlab.analysis import departures
from mnistlab.comparison import saved, workdirs
from mnistlab.errors import UserError, file_errors
from mnistlab.report import page, text

OF_A_RUN = ("checkpoints", "figures", "tb", "wandb")
"""Folders of a run, in which no other run is."""


class Entry(NamedTuple):
    """A folder with a run, or with what a tool made of runs."""

    path: Path
    when: datetime.datetime  # its last result was written, in local time
    protocol: str
    num_seeds: int | None
    outcome: str  # how many claims have which verdict, or why there is none yet
    num_bytes: int


def find_runs(folder: Path) -> list[Entry]:
    """What lies in `folder` and below it, the newest first; a run that is damaged or not finished says so.

    Raises:
      UserError: there is no such folder, or it cannot be read.
    """
    with file_errors(f"cannot list {folder}", "give a folder of runs"):
        os.scandir(folder).close()
    found = []
    for place, below, names in os.walk(folder):
        if "config.json" in names:
            below[:] = [name for name in below if name not in OF_A_RUN]
            entry = _entry(Path(place))
            found += [entry] if entry else []
    return sorted(found, key=lambda entry: entry.when, reverse=True)


def runs_table(entries: Sequence[Entry]) -> page.Table:
    """A row for each run."""
    rows = [
        (
            str(entry.path),
            f"{entry.when:%Y-%m-%d %H:%M}",
            entry.protocol,
            text.MISSING if entry.num_seeds is None else str(entry.num_seeds),
            text.format_bytes(entry.num_bytes),
            entry.outcome,
        )
        for entry in entries
    ]
    total = text.format_bytes(sum(entry.num_bytes for entry in entries))
    header = ("run", "when", "protocol", "seeds", "on disk", "verdicts")
    return page.Table(header, rows, f"Runs, the newest first; {total} on disk")


def bytes_in(folder: Path) -> int:
    """The sizes of all files in `folder` and below it, added; nothing behind a link."""
    paths = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sum(_size(path) for path in paths)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:  # a run that is training deletes old checkpoints
        return 0


def _entry(path: Path) -> Entry | None:
    """What `path` holds; None where its config.json is another program's."""
    summary: Mapping[str, Any] = {}
    if not os.path.lexists(path / "summary.json"):
        outcome = "not finished: repeat its command, which goes on"
        run = _run_in(path)
        if run is None:
            return None
        summary = {"protocol": run.get("protocol"), "n_seeds": len(run.get("seeds", ()))}
    else:
        try:
            summary = saved.read_summary(path)
            verdicts = [claim["verdict"] for claim in summary["claims"] if claim["verdict"] != "not measured"]
            outcome = departures.tally(verdicts) or ("no claim was measured" if summary["claims"] else "no claims")
        except UserError as error:
            outcome = f"damaged: {error!s:.60}"
    written = [name for name in (*workdirs.FINDINGS, "config.json") if (path / name).exists()]
    when = max((path / name).stat().st_mtime for name in written)
    protocol, seeds = summary.get("protocol"), summary.get("n_seeds")
    return Entry(
        path,
        datetime.datetime.fromtimestamp(when),
        protocol if isinstance(protocol, str) else text.MISSING,
        seeds if isinstance(seeds, int) else None,
        outcome,
        bytes_in(path),
    )


def _run_in(path: Path) -> dict[str, Any] | None:
    """ "run" of a config.json that a run wrote; None of another program's, and of one that cannot be read."""
    try:
        content = json.loads(files.read_text(path / "config.json"))
    except (OSError, ValueError, RecursionError):
        return None
    run = content.get("run") if isinstance(content, dict) else None
    return run if isinstance(run, dict) and isinstance(run.get("seeds", []), list) else None
