"""What to do after a run, in a line."""

import shlex
from collections.abc import Mapping
from typing import Any

from mnistlab.analysis import claims
from mnistlab.comparison.spec import Options
from mnistlab.report import answer


def next_step(summary: Mapping[str, Any], asked: Options) -> str:
    """The line that a run of training ends with: the command that answers what is open, or the one that shows the page.

    >>> from pathlib import Path
    >>> asked = Options(Path("results/x"), command="mnistlab run x --epochs=2")
    >>> claims = [{"id": "a", "verdict": "not resolved (n too small)", "comparison": {"n": 1}}]
    >>> next_step({"n_seeds": 1, "claims": claims}, asked).rpartition(": ")
    ('next: 1 seed is too few for a; to answer it, keeping what was already run', ': ', 'mnistlab run x --epochs=2 --until=resolved')
    >>> next_step({"n_seeds": 8, "claims": [{"id": "a", "verdict": "holds"}]}, asked)
    'next: mnistlab open results/x'
    >>> next_step({"n_seeds": 8, "claims": [{**claims[0], "metric": "epoch_seconds"}]}, asked)  # no matter of seeds
    'next: mnistlab open results/x'
    >>> next_step({"n_seeds": 64, "claims": claims, "until": "Open, since ..."}, asked)
    'next: mnistlab open results/x'
    """
    count, tool, where = summary["n_seeds"], _tools_of(asked.command), shlex.quote(str(asked.workdir))
    of_seeds = [claim for claim in summary["claims"] if not claims.is_of_the_clock(claim.get("metric", ""))]
    open_claims = [claim["id"] for claim in of_seeds if "not resolved" in claim["verdict"]]
    too_few = [claim["id"] for claim in of_seeds if "n too small" in claim["verdict"]]
    if "until" in summary or not open_claims:  # with until, it says itself what is open and why
        return f"next: {tool}open {where}"
    if too_few:
        words = "1 seed is" if count == 1 else f"{count} seeds are"
        wanted = answer.wanted_seeds(count, sum(bool(claim.get("comparison")) for claim in summary["claims"]))
        go_on = answer.going_on(asked.command, wanted, until=not asked.sweep)
        return f"next: {words} too few for {', '.join(too_few)}; {answer.GO_ON.lower()}: {go_on}"
    resolve = f"how many seeds would resolve {', '.join(open_claims)}"
    return f"next: {tool}open {where} shows the page, {tool}power {where} says {resolve}"


def _tools_of(command: str) -> str:
    """What stands before the name of a tool, as the run's own command was called.

    >>> _tools_of("mnistlab run x"), _tools_of("python -m experiments.x --seeds=2"), _tools_of("bash launch/local.sh x")
    ('mnistlab ', 'python -m experiments.', 'bash launch/local.sh ')
    """
    words = shlex.split(command)
    if words[0] == "mnistlab":
        return "mnistlab "
    return "bash launch/local.sh " if words[0] == "bash" else "python -m experiments."
