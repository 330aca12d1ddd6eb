"""The one error that the user can correct, and what was probably meant."""

import contextlib
import difflib
import unicodedata
from collections.abc import Callable, Iterable, Iterator


class UserError(ValueError):
    """Bad input: its text is one line that says what was wrong, what was expected and what to do.

    Library code raises it before anything is half-written; the entry points print it and exit with status 2.
    """


def is_line(words: str, most: int) -> bool:
    """Whether `words` are a line as the schema of summary.json asks; jsonschema itself would be slow to start."""
    unprintable = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return 0 < len(words.encode(errors="replace")) <= most and not any(
        unicodedata.category(letter) in unprintable for letter in words
    )


def one_line(error: BaseException) -> str:
    """The text of `error` without line breaks; its type where there is none.

    >>> one_line(ValueError("no such   file ")), one_line(KeyError())
    ('no such file', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def file_errors(what: str, advice: str) -> Iterator[None]:
    """An OSError within, or text that is no UTF-8, becomes a UserError "<what>: <reason>; <advice>"."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {getattr(error, 'strerror', None) or one_line(error)}; {advice}") from error


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The name among `known` that was probably meant: by its initials, its beginning, its end or its letters.

    >>> names = ("batch_size", "epochs", "learning_rate")
    >>> [nearest(text, names) for text in ("lr", "batch", "num_epochs", "learning-rat", "colour")]
    ['learning_rate', 'batch_size', 'epochs', 'learning_rate', None]
    """
    text, known = given.lower().replace("-", "_"), sorted(known)
    rules: list[Callable[[str], bool]] = [
        lambda name: name.replace("_", "") == text.replace("_", ""),
        lambda name: "_" in name and "".join(word[:1] for word in name.split("_")) == text,
        lambda name: len(text) > 1 and name.startswith(text),
        lambda name: text.endswith(f"_{name}"),
    ]
    near = [name for rule in rules for name in known if rule(name)]
    return next(iter([*near, *difflib.get_close_matches(text, known, n=1)]), None)


def meant(given: str, known: Iterable[str]) -> str:
    """The nearest of `known` as the beginning of an advice; nothing where none is near.

    >>> meant("lenet", ["lenet5", "dense"]), meant("colour", ["dense"])
    ('did you mean lenet5? ', '')
    """
    near = nearest(given, known)
    return f"did you mean {near}? " if near else ""
