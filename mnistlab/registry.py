"""Named parts of a training that a user can add to."""

from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict that knows what it was made with: a name says all of that, and nothing of what a user puts in later.

    >>> losses = Registry({"square": abs})
    >>> losses["mine"] = max
    >>> losses.ships("square"), losses.ships("mine"), losses.ships("other")
    (True, False, False)
    """

    def __init__(self, shipped: dict[str, T]):
        super().__init__(shipped)
        self._shipped = shipped

    def ships(self, name: str) -> bool:
        """Whether `name` stands for what the package calls so."""
        return name in self._shipped and self.get(name) is self._shipped[name]
