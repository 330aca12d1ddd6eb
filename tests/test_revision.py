"""Whose commit a run names: this checkout's, and never that of a repository around an installed copy."""

import importlib.metadata
import shutil
import subprocess

import pytest

from mnistlab.comparison import revision, workdirs


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_all(folder):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def project(folder, name):
    """A project of that name with a copy of the package in it."""
    package = folder / "mnistlab"
    shutil.copytree(revision.PACKAGE, package, ignore=shutil.ignore_patterns("archives", "__pycache__"))
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return package


def test_a_checkout_names_its_commit_and_says_when_it_was_changed(tmp_path):
    package = project(tmp_path, "mnistlab")
    commit = commit_all(tmp_path)
    before = revision.revision(package)
    assert (before["git_revision"], before["git_changed"]) == (commit, False)
    (package / "config.py").write_text("# changed\n")
    after = revision.revision(package)
    assert (after["git_revision"], after["git_changed"]) == (commit, True)
    assert after["code_digest"] != before["code_digest"] and "changed since" in revision.describe(after)
    git(tmp_path, "checkout", "-q", "mnistlab/config.py")
    (package / "new.py").write_text("")  # not tracked, and imported all the same
    assert revision.revision(package)["git_changed"]


@pytest.mark.parametrize("tracked", [True, False])
def test_an_installed_copy_names_no_commit_of_the_repository_around_it(tmp_path, tracked):
    package = project(tmp_path, "my_thesis")
    if not tracked:
        (tmp_path / ".gitignore").write_text("mnistlab/\n")
    commit = commit_all(tmp_path)
    about = revision.revision(package)
    assert (about["git_revision"], about["git_changed"]) == (None, None)
    assert about["code_digest"] == revision.revision()["code_digest"]  # the same files
    (package / "experiments").mkdir()
    (package / "experiments" / "common.py").write_text("# where a wheel has them")
    assert about == revision.revision(package)
    assert commit not in revision.describe(about)


def test_a_copy_within_a_checkout_of_mnistlab_is_not_that_checkout(tmp_path):
    project(tmp_path, "mnistlab")
    (tmp_path / ".gitignore").write_text(".venv/\n")
    commit_all(tmp_path)
    installed = tmp_path / ".venv" / "mnistlab"
    shutil.copytree(tmp_path / "mnistlab", installed)
    assert revision.revision(installed)["git_revision"] is None


def test_the_environment_of_a_git_hook_does_not_mislead(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    other = commit_all(tmp_path / "other")
    (tmp_path / "own").mkdir()
    package = project(tmp_path / "own", "mnistlab")
    own = commit_all(tmp_path / "own")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert revision.revision(package)["git_revision"] == own != other


def test_where_git_cannot_say_nothing_is_said_to_be_unchanged(tmp_path, monkeypatch):
    package, ask = project(tmp_path, "mnistlab"), revision._git
    commit = commit_all(tmp_path)
    monkeypatch.setattr(revision, "_git", lambda folder, *words: None if words[0] == "status" else ask(folder, *words))
    about = revision.revision(package)
    assert (about["git_revision"], about["git_changed"]) == (commit, None)


def test_provenance_tells_it():
    assert revision.revision().items() <= workdirs.provenance().items()


def test_a_checkout_that_was_not_installed_says_so(monkeypatch):
    def version(package):
        if package == "mnistlab":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    versions = workdirs.provenance()["versions"]
    assert versions["mnistlab"] == "not installed" and versions["numpy"] == "1.2.3"
