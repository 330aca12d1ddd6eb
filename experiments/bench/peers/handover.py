"""A training loop that belongs to someone else, run an epoch at a time. Imports NumPy alone."""

import queue
import threading
from collections.abc import Callable

import numpy as np


class Epochs:
    """A round that is one epoch of a training which calls a function after each epoch; between them it waits.

    So what is timed is the framework's own loop as it goes from epoch to epoch, not a call of it for each.

    >>> def train(after_epoch):
    ...     for loss in (0.5, 0.25):
    ...         after_epoch(loss)
    >>> epochs = Epochs(train)
    >>> epochs(np.zeros(0)), epochs(np.zeros(0))
    (0.5, 0.25)
    """

    def __init__(self, train: Callable[[Callable[[float], None]], None]):
        """train: what calls its argument with the loss after each epoch."""
        self._asked: queue.Queue[None] = queue.Queue()
        self._answers: queue.Queue[float | BaseException] = queue.Queue()
        threading.Thread(target=self._run, args=(train,), daemon=True).start()

    def __call__(self, order: np.ndarray) -> float:
        """The loss of the next epoch; it draws its own order."""
        del order
        self._asked.put(None)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _run(self, train: Callable[[Callable[[float], None]], None]) -> None:
        self._asked.get()
        try:
            train(self._after_epoch)
            self._answers.put(RuntimeError("the training has ended"))
        except BaseException as error:
            self._answers.put(error)

    def _after_epoch(self, loss: float) -> None:
        self._answers.put(loss)
        self._asked.get()
