"""What the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

from experiments import common

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_research_script_runs_and_gives_arrays(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holds [") and done.stdout.endswith("(3, 10)\n")


def test_every_command_names_what_exists():
    for name in re.findall(r"experiments\.(\w+)", README):
        assert name in common.names() + common.tools(), name
    for path in re.findall(r"launch/[\w.]+", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"local\.sh (\w+)", README):
        assert name in common.names() + common.tools(), name
