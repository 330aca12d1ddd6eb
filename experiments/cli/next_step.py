"""What to do after a run, in a line."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENOUGH = 8  # seeds that answer what one cannot, unless there are many claims


def next_step(summary: Mapping[str, Any], command: str, folder: Path) -> str:
    """The line that a run of training ends with: the command that answers what is open, or the one that shows the page.

    Args:
      command: how the run was called.

    >>> claims = [{"id": "a", "verdict": "not resolved (n too small)"}]
    >>> next_step({"n_seeds": 1, "claims": claims}, "mnistlab run x --epochs=2", Path("results/x"))
    'next: 1 seed is too few for a; 7 more may answer: mnistlab run x --epochs=2 --seeds=8'
    >>> next_step({"n_seeds": 8, "claims": [{"id": "a", "verdict": "holds"}]}, "mnistlab run x", Path("results/x"))
    'next: mnistlab open results/x'
    >>> next_step({"n_seeds": 64, "claims": claims, "until": "Open, since ..."}, "mnistlab run x", Path("results/x"))
    'next: mnistlab open results/x'
    """
    count, tool = summary["n_seeds"], _tools_of(command)
    where = shlex.quote(str(folder))
    open_claims = [claim["id"] for claim in summary["claims"] if "not resolved" in claim["verdict"]]
    too_few = [claim["id"] for claim in summary["claims"] if "n too small" in claim["verdict"]]
    if "until" in summary:  # which says itself what is open and why
        return f"next: {tool}open {where}"
    if too_few:
        more = ENOUGH if count < ENOUGH else 2 * count
        words = "1 seed is" if count == 1 else f"{count} seeds are"
        asked = f"too few for {', '.join(too_few)}; {more - count} more may answer"
        return f"next: {words} {asked}: {with_seeds(command, more)}"
    if open_claims:
        asked = f"how many seeds would resolve {', '.join(open_claims)}"
        return f"next: {tool}open {where} shows the page, {tool}power {where} says {asked}"
    return f"next: {tool}open {where}"


def with_seeds(command: str, count: int) -> str:
    """`command` with so many seeds.

    >>> with_seeds("python -m experiments.x --seeds=1 --epochs=3", 8)
    'python -m experiments.x --epochs=3 --seeds=8'
    """
    words = shlex.split(command)
    numbers = {n + 1 for n, word in enumerate(words[:-1]) if word in ("--seeds", "-seeds")}
    kept = [word for n, word in enumerate(words) if n not in numbers and word.lstrip("-").partition("=")[0] != "seeds"]
    return shlex.join([*kept, f"--seeds={count}"])


def _tools_of(command: str) -> str:
    """What stands before the name of a tool, as the run's own command was called.

    >>> _tools_of("mnistlab run x"), _tools_of("python -m experiments.x --seeds=2"), _tools_of("bash launch/local.sh x")
    ('mnistlab ', 'python -m experiments.', 'bash launch/local.sh ')
    """
    words = shlex.split(command)
    if words[0] == "mnistlab":
        return "mnistlab "
    return "bash launch/local.sh " if words[0] == "bash" else "python -m experiments."
