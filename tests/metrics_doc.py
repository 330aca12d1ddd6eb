"""What of a summary.json docs/metrics.md does not name."""

import re
from pathlib import Path

NAMED = set(re.findall(r"`(\w+)`", (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()))
FREE = {"variants", "metrics", "note"}  # what holds the numbers, and words


def unnamed(summary):
    """The names in a summary, of its variants and of their metrics that the page does not explain."""
    entries = list(summary["variants"].values())
    metrics = [metric for entry in entries for metric in entry["metrics"].items()]
    levels = [summary, *entries, *(dict.fromkeys([name]) for name, _ in metrics), *(summary for _, summary in metrics)]
    return {name for level in levels for name in level} - NAMED - FREE
