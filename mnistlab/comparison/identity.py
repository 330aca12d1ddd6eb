"""What a run is: the settings that decide its numbers, how two runs differ in them, and what a checkpoint belongs to.

A run is config.json's "run": experiment, protocol, seeds, sweep, precision, the data's fingerprint and, by name, the
variants; "seeds_of" has the seeds of those variants that were trained with fewer than all. Devices, versions and code
are no part of it, so that a run may go on elsewhere; config.json records them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mnistlab.config import WORDS
from mnistlab.files import sha256

NUM_NAMED = 5  # differences that are named in a line; the others are counted


def digest(run: Mapping[str, Any], variant: str, part: str) -> str:
    """What a checkpoint belongs to: all of `run` but how many seeds and which other variants it has.

    Args:
      part: which of the variant's checkpoints: "last", "best" or a population's name.
    """
    own = {**run, "seeds": run["seeds"][:1], "variants": {variant: run["variants"][variant]}, "part": part}
    own.pop("seeds_of", None)
    return sha256(json.dumps(own, sort_keys=True).encode())


def seeds_of(run: Mapping[str, Any], variant: str) -> list[int]:
    """The seeds of one variant of a run.

    >>> run = {"seeds": [0, 1, 2], "seeds_of": {"dense": [0, 1]}}
    >>> seeds_of(run, "dense"), seeds_of(run, "lenet5")
    ([0, 1], [0, 1, 2])
    """
    return list(run.get("seeds_of", {}).get(variant, run["seeds"]))


def with_seeds(run: Mapping[str, Any], seeds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """`run` with these seeds by variant, which `seeds_of` gives back."""
    every = sorted({seed for own in seeds.values() for seed in own})
    fewer = {name: list(own) for name, own in seeds.items() if list(own) != every}
    rest = {name: value for name, value in run.items() if name != "seeds_of"}
    return {**rest, "seeds": every, **({"seeds_of": fewer} if fewer else {})}


def has_grown(before: Any, now: Any) -> bool:
    """Whether `now` is all of `before`, a list's beginning or entries of an object, and more."""
    if isinstance(before, list) and isinstance(now, list):
        return len(now) > len(before) and now[: len(before)] == before
    if isinstance(before, dict) and isinstance(now, dict):
        return len(now) > len(before) and all(now.get(name) == value for name, value in before.items())
    return False


def in_words_of(before: Any, now: Any) -> Any:
    """`now`, where it is the same as `before` as that has it.

    >>> in_words_of({"rate": 1, "decay": [0, 0.5]}, {"rate": 1.0, "decay": [0.0, 0.5, 2], "seeds": 8})
    {'rate': 1, 'decay': [0, 0.5, 2], 'seeds': 8}
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return {name: in_words_of(before.get(name), value) for name, value in now.items()}
    if isinstance(before, list) and isinstance(now, list):
        return [in_words_of(*pair) for pair in zip(before, now, strict=False)] + now[len(before) :]
    return before if before == now else now


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How `now` differs from `before`, by the names of the flags; a handful, the others counted.

    >>> describe_differences({"seeds": [0, 1], "protocol": "reported"}, {"seeds": [0], "protocol": "controlled"})
    'seeds 2 -> 1, protocol reported -> controlled'
    """
    found = []
    for name in dict.fromkeys((*now, *before)):
        left, right = before.get(name), now.get(name)
        if left == right:
            continue
        if name == "seeds" and isinstance(left, list) and isinstance(right, list):
            found.append(_seeds(left, right))
        elif name == "variants" and isinstance(left, dict) and isinstance(right, dict):
            found += _of_variants(left, right)
        else:
            found += _of_settings(name, left, right)
    more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
    return ", ".join(found[:NUM_NAMED]) + more


def _seeds(before: list[Any], now: list[Any]) -> str:
    if before[:1] == now[:1]:
        return f"seeds {len(before)} -> {len(now)}"
    return f"seed {_short(before[:1])} -> {_short(now[:1])}"


def _of_variants(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What all variants share is said once, else with the variant's name; other names say it all."""
    common = [name for name in before if name in now]
    if not common or len(common) < min(len(before), len(now)):
        return [f"variants {_short(list(before))} -> {_short(list(now))}"]
    by_variant = {name: _of_settings("", before[name], now[name]) for name in common}
    found = [f"variants {_short(list(before))} -> {_short(list(now))}"] if len(common) < len(before) else []
    for text in dict.fromkeys(text for texts in by_variant.values() for text in texts):
        users = [name for name, texts in by_variant.items() if text in texts]
        found.append(text if len(users) == len(common) else f"{', '.join(users)}: {text}")
    return found


def _of_settings(name: str, before: Any, now: Any) -> list[str]:
    """Every differing leaf of two trees of settings as "name before -> now"."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        parts = dict.fromkeys((*before, *now))
        return [t for part in parts for t in _of_settings(f"{name}.{part}".strip("."), before.get(part), now.get(part))]
    field = name.rpartition(".")[2]
    return [f"{WORDS.get(field, field)} {_short(before)} -> {_short(now)}"]


def _short(value: Any) -> str:
    """A value as it would stand behind a flag, cut to 40 letters.

    >>> _short([1, 2]), _short(None), _short(0.1)
    ('1,2', 'none', '0.1')
    """
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, list):
        text = ",".join(map(_short, value))
    return text if len(text) <= 40 else f"{text[:39]}…"
