"""The words of the statistics, explained: one text for the page and for docs/statistics.md."""

import re
from importlib import resources

_WORD = re.compile(r"^\*\*(.+?)\.\*\* (.+?)(?=\n\n)", re.MULTILINE | re.DOTALL)


def words() -> dict[str, str]:
    """What each word means, in the order of docs/statistics.md.

    >>> words()["Pair"].partition(".")[0]
    "A's run and B's run with the same seed: same order of the data, same split"
    """
    document = resources.files("mnistlab.report").joinpath("statistics.md").read_text(encoding="utf-8")
    section = document.partition("## The words\n")[2].partition("\n## ")[0] + "\n\n"
    plain = {word: re.sub(r"[*`]", "", meaning) for word, meaning in _WORD.findall(section)}
    return {word: " ".join(meaning.split()) for word, meaning in plain.items()}
