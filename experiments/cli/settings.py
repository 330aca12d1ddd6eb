"""The resolved config of a run as a file: what --dry_run prints, and a run's config.json, is what --config takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mnistlab import sealed
from mnistlab.errors import UserError

ADVICE = "write one with `mnistlab run NAME --dry_run > FILE`, which may be edited"


def define_flags() -> None:
    """Flags of a comparison that trains: what it would do, and doing what a file says."""
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Print the resolved config, and what would be trained, how long and how much disk; no training.",
    )
    flags.DEFINE_string(
        "config", None, "A file that --dry_run printed, or a run's config.json: train that; other flags change it."
    )


def read_config(path: Path) -> dict[str, Any]:
    """What a run is, from a file that --dry_run printed or from a run's config.json.

    Raises:
      UserError: it cannot be read, or is neither.
    """
    content = sealed.read(path, ADVICE)
    run = content.get("run", content) if isinstance(content, dict) else None
    if not isinstance(run, dict) or not isinstance(run.get("experiment"), str):
        raise UserError(f"{path} is no config of a run (it names no experiment); {ADVICE}")
    variants, seeds = run.get("variants"), run.get("seeds")
    entries = list(variants.values()) if isinstance(variants, dict) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("config"), dict) for entry in entries):
        raise UserError(f"{path} is no config of a run (variants is no object of configs); {ADVICE}")
    sweep = run.get("sweep", {})
    if not isinstance(sweep, dict) or not all(isinstance(values, list) for values in sweep.values()):
        raise UserError(f"{path} is no config of a run (sweep is no object of lists); {ADVICE}")
    if not _are_in_a_row(seeds):
        raise UserError(f"{path} has the seeds {seeds!r:.80}; expected whole numbers without a gap, such as [0, 1, 2]")
    return run


def _are_in_a_row(seeds: Any) -> bool:
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        return False
    return seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def flags_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags of a comparison would say of `run`, beside the settings of its variants.

    >>> flags_of({"seeds": [4, 5], "variants": {"a": {}}, "sweep": {"momentum": [0.1, 0.5]}, "protocol": "reported"})
    {'seeds': 2, 'seed': 4, 'variants': ['a'], 'sweep': ['momentum=0.1,0.5'], 'protocol': 'reported'}
    """
    said = {
        "seeds": len(run["seeds"]),
        "seed": run["seeds"][0],
        "variants": list(run["variants"]),
        "sweep": [f"{name}={','.join(map(str, values))}" for name, values in run.get("sweep", {}).items()],
    }
    if run.get("protocol"):
        said["protocol"] = run["protocol"]
    if run.get("matmul_precision") not in (None, "backend's default"):
        said["matmul_precision"] = run["matmul_precision"]
    return said


def experiment_in(arguments: Sequence[str]) -> str | None:
    """The experiment that the file of a --config among `arguments` names; None without one.

    Raises:
      UserError: the file cannot be read, or is no config of a run.
    """
    for number, word in enumerate(arguments):
        flag, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == "config":
            given = value if equals else "".join(arguments[number + 1 : number + 2])
            return str(read_config(Path(given).expanduser())["experiment"])
    return None
