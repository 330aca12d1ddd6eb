"""Which code made a run: the commit of its checkout, where there is one, and a digest of its files."""

import hashlib
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


def revision(package: Path = PACKAGE) -> dict[str, Any]:
    """What config.json says of the code: {"git_revision", "git_changed", "code_digest"}.

    git_revision: the commit, of a checkout of mnistlab; None of an installed copy, whatever repository lies around it.
    git_changed: whether files of the checkout differ from that commit; None where there is none, or git cannot say.
    code_digest: SHA-256 over the names and contents of the package's Python files; a checkout's is its wheel's.
    """
    commit = changed = None
    if _is_checkout(package):
        commit = _git(package, "rev-parse", "--short=12", "HEAD")
        status = _git(package.parent, "status", "--porcelain", "--", "pyproject.toml", "mnistlab", "experiments")
        changed = None if status is None else bool(status)
    return {"git_revision": commit, "git_changed": changed, "code_digest": _digest(package)}


def describe(about: dict[str, Any]) -> str:
    """`revision()` in words.

    >>> describe({"git_revision": "1a2b3c4d5e6f", "git_changed": True, "code_digest": 64 * "0"})
    'commit 1a2b3c4d5e6f, changed since; code 000000000000'
    """
    commit = about["git_revision"]
    words = f"commit {commit}{', changed since' if about['git_changed'] else ''}; " if commit else ""
    return f"{words}code {about['code_digest'][:12]}"


def _is_checkout(package: Path) -> bool:
    """Whether git tracks `package` in a work tree that is mnistlab's own."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return False
    try:
        project = tomllib.loads((Path(top) / "pyproject.toml").read_text()).get("project", {})
    except (OSError, ValueError):
        return False
    return project.get("name") == "mnistlab" and Path(top).resolve() == package.parent.resolve()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in `folder`; None where it fails, or is not there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip()


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    found = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for own, path in sorted(found.items()):
        if own.startswith("experiments/"):  # lies beside the package in a checkout
            continue
        name, content = own.encode(), path.read_bytes()
        digest.update(b"%d %d " % (len(name), len(content)) + name + content)
    return digest.hexdigest()
