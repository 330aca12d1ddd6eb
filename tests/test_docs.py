"""The documentation: the site is whole, every public name is in the reference, and what the pages show runs."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forks
import pytest
import yaml
from absl import flags
from command_lines import run_all_with_data

import mnistlab
from experiments import common

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SMALL = ["--epochs=1", "--limit_examples=300", "--batch_size=100", "--progress=none"]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def typed(page):
    """The arguments of every `mnistlab` in a page's blocks, fenced and indented."""
    fenced = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    indented = re.findall(r"^    (mnistlab .*)$", (DOCS / page).read_text(), re.MULTILINE)
    lines = [
        re.sub(r" > \S+$", "", line.split(" #")[0].rstrip())
        for line in (*fenced, *indented)
        if line.startswith("mnistlab ")
    ]
    return [shlex.split(line)[1:] for line in lines]


def test_the_site_is_built_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed; .ci/run builds the site")
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "results.html").read_text()
    assert "What the quirks cost" in page and "--8&lt;--" not in page
    for path in tmp_path.glob("*.html"):  # nothing is fetched from elsewhere
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', path.read_text()), path.name


def test_every_page_is_in_the_navigation():
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:", lambda loader, suffix, node: suffix)
    listed = str(yaml.load((ROOT / "mkdocs.yml").read_text(), loader)["nav"])
    assert [page.name for page in PAGES if f"'{page.name}'" not in listed] == []


@pytest.mark.parametrize("name", mnistlab.__all__)
def test_every_public_name_is_in_the_reference(name):
    place = mnistlab._PLACES.get(name, "analysis.stats")
    entry = f"::: mnistlab.{place}" if name == "stats" else f"::: mnistlab.{place}.{name}"
    assert entry in (DOCS / "reference.md").read_text().splitlines()


@pytest.mark.parametrize("page", ["tutorial.md", "how_to.md"])
def test_the_python_of_a_page_runs_in_its_order(page, tmp_path):
    source = "".join(blocks(page, "python"))
    if importlib.util.find_spec("pandas") is None:
        source = source.replace("frame = run.to_dataframe()", "frame = None")
    environ = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    (tmp_path / "shown.py").write_text(source)
    done = forks.run("shown", [], folder=tmp_path, environ=environ, pictures=False)
    assert done.returncode == 0, done.stderr
    assert page != "tutorial.md" or done.stdout == "holds\n"


def test_the_commands_of_the_tutorial_run_in_their_order(little_flags, tmp_path):
    lines = [[*line, *SMALL, *little_flags] if line[0] == "run" else line for line in typed("tutorial.md")]
    lines = [[*line, "--seeds=2"] if any(word.startswith("--seeds=") for word in line) else line for line in lines]
    assert len(lines) >= 8
    ended = run_all_with_data([("experiments.cli.main", line) for line in lines], tmp_path, pictures=False)
    for line, (status, _, err) in zip(lines, ended, strict=True):
        assert status == 0, f"{line}\n{err}"


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_the_commands_of_a_page_name_what_there_is(page):
    for command, *rest in typed(page):
        assert command in ("run", *common.TOOLS), command
        name = rest[0] if command == "run" and rest[0] in common.names() else command
        known = {flag.name for flag in common.flags_of(None if name == "run" else name)}
        given = {word[2:].partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known, f"{command} {rest}"
    for path in re.findall(r"(?:launch|notebooks|tests|docs)/\w[\w./]*\w", (DOCS / page).read_text()):
        assert (ROOT / path).exists(), path
    assert not {"seeds", "epochs"} & set(flags.FLAGS)  # flags_of leaves none behind
