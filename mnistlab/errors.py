"""The one error that the user can correct."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input: its text is one line that says what was wrong, what was expected and what to do.

    Library code raises it before anything is half-written; the entry points print it and exit with status 2.
    """


def one_line(error: BaseException) -> str:
    """The text of `error` without line breaks; its type where there is none.

    >>> one_line(ValueError("no such   file ")), one_line(KeyError())
    ('no such file', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def file_errors(what: str, advice: str) -> Iterator[None]:
    """An OSError within becomes a UserError "<what>: <reason>; <advice>"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {error.strerror or error}; {advice}") from error
