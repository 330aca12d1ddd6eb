"""JSON files with a digest of their content, so that a flipped bit or an edit by hand is noticed by every reader.

A file of format 1 has neither "format" nor "digests" and is trusted.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnistlab import files
from mnistlab.errors import UserError
from mnistlab.files import sha256, write_atomic

FORMAT = 2  # of files with digests
OWN = "this file"


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of whitespace.

    >>> digest([1, 2.0])[:8]
    '2d44f830'
    """
    return sha256(json.dumps(value, separators=(",", ":")).encode())


def write(path: Path, content: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Writes `content` with "format" and "digests", which are those given and the file's own, and returns all of it.

    Raises:
      UserError: as write_atomic.
    """
    sealed = {"format": FORMAT, **content, "digests": dict(digests or {})} | {"format": FORMAT}
    sealed["digests"] = {**sealed["digests"], OWN: digest(sealed)}
    write_atomic(path, json.dumps(sealed, indent=2) + "\n")
    return sealed


def read(path: Path, advice: str) -> Any:
    """The content of the JSON file `path`; `advice` is what to do where it cannot be trusted.

    Raises:
      UserError: it cannot be read, is no JSON, or was changed after it was written.
    """
    try:
        content = json.loads(files.read_text(path))
        if isinstance(content, dict) and ("format" in content or "digests" in content):
            _check(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; {advice}") from error
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8
        raise UserError(f"{path} is damaged ({error!s:.200}); {advice}") from error
    return content


def _check(content: Mapping[str, Any]) -> None:
    digests = content.get("digests")
    others = {name: value for name, value in digests.items() if name != OWN} if isinstance(digests, dict) else {}
    if not isinstance(digests, dict) or digests.get(OWN) != digest({**content, "digests": others}):
        raise ValueError("it was changed after it was written: its digest is of other content")
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r:.40}, not {FORMAT}: another release wrote it")
