import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import published
import pytest

from experiments import judge
from mnistlab.analysis import claims, tables
from mnistlab.analysis.sequential import standing, verdict_of
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
NOISE = np.array([0.001, -0.002, 0.0015, 0.0005, -0.001, 0.002, -0.0005, 0.001, -0.0015, 0.0])
WIDE, NARROW = 0.95 + NOISE, 0.93 + NOISE[::-1]


def wide_table(path, wide=WIDE, narrow=NARROW):
    lines = ["variant,seed,accuracy,loss"]
    lines += [f"wide, {seed}, {value}, {1 - value}" for seed, value in enumerate(wide)]
    lines += [f"narrow,{seed},{value},{1 - value}" for seed, value in enumerate(narrow)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_wide_and_a_long_table_of_the_same_runs_are_the_same(tmp_path):
    runs = tables.read(wide_table(tmp_path / "wide.csv"))
    lines = ["value,metric,seed,variant"]
    for variant, of in runs.values.items():
        lines += [f"{value},{metric},{seed},{variant}" for metric, by in of.items() for seed, value in by.items()]
    (tmp_path / "long.csv").write_text("\ufeff" + "\r\n".join(lines))
    assert tables.read(tmp_path / "long.csv") == runs
    assert runs.values["wide"]["accuracy"] == dict(enumerate(WIDE))


def test_a_claim_in_words_is_judged_as_a_run_is(tmp_path):
    runs = tables.read(wide_table(tmp_path / "runs.csv"))
    words = (
        "wide > narrow in accuracy",
        "wide<narrow  in accuracy",
        "wide > 0.94 in accuracy",
        "wide = narrow in loss",
    )
    asked = [tables.claim(text, runs, number) for number, text in enumerate(words, start=1)]
    checked = claims.check_sides(asked, tables.sides(asked, runs))
    assert [item.verdict for item in checked] == ["holds", "reversed", "holds", "reversed"]
    (alone,) = claims.check_sides(asked[:1], tables.sides(asked[:1], runs))
    assert alone.verdict == verdict_of(standing(WIDE - NARROW, claims.ACCURACY_THAT_MATTERS))


def test_without_a_claim_all_are_asked(tmp_path):
    runs = tables.read(wide_table(tmp_path / "runs.csv"))
    asked = tables.every_claim(runs)
    assert [claim.text for claim in asked] == ["wide > narrow in accuracy", "narrow > wide in loss"]
    assert [len(left) for left, _ in tables.sides(asked, runs)] == [10, 10]


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "columns none"),
        ("variant,accuracy\na,1\n", "expected columns variant, seed"),
        ("variant,seed,x,x\na,1,1,1\n", "each once"),
        ("variant,seed,x\n", "holds no runs"),
        ("variant,seed,x\n,1,2\n", "without a variant"),
        ("variant,seed,x\na,one,2\n", "line 2: seed is 'one'"),
        ("variant,seed,x\na,1,\n", "line 2: x is ''"),
        ("variant,seed,x\na,1,1e200\n", "line 2: x is '1e200'"),
        ("variant,seed,x\na,1,1e300\n", "line 2: x is '1e300'; expected a number, or nan where"),
        ("variant,seed,x\na,1,\n", "line 2: x is ''; expected a number, or nan where"),
        ("variant,seed,x\na,1,2\na,1,3\n", "line 3: a has x of seed 1 twice"),
        ("variant,seed,x\na\u200b,1,2\n", r"line 2: the name 'a\\u200b'; expected up to 200 printable"),
        ("variant,seed,metric,value\na,1," + "x" * 201 + ",2\n", "line 2: the name 'xxx"),
        ("variant,seed,x\na,1\n", "line 2 has more or fewer cells"),
        ("variant,seed,x\na,1,2,3\n", "line 2 has more or fewer cells"),
    ],
)
def test_a_table_that_cannot_be_judged_is_refused_by_line(tmp_path, content, words):
    (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(UserError, match=words):
        tables.read(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    "words, reason",
    [
        ("wide beats narrow", "expected such as"),
        ("wide > deep in accuracy", "names 'deep'"),
        ("wide > narrow in beauty", "names 'beauty'"),
        ("0.9 < wide in accuracy", "names '0.9'"),
    ],
)
def test_a_claim_that_cannot_be_asked_is_refused(tmp_path, words, reason):
    runs = tables.read(wide_table(tmp_path / "runs.csv"))
    with pytest.raises(UserError, match=reason):
        tables.claim(words, runs, 1)


def test_text_that_is_no_utf_8_or_no_table_is_one_line(tmp_path):
    (tmp_path / "excel.csv").write_bytes("variant,seed,größe\na,0,1\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"cannot read .*; expected a CSV file in UTF-8"):
        tables.read(tmp_path / "excel.csv")
    (tmp_path / "quote.csv").write_text('variant,seed,loss\n"a,0,' + "1" * 200_000)
    with pytest.raises(UserError, match=r"quote.csv, line .*field larger than"):
        tables.read(tmp_path / "quote.csv")


def test_a_variant_may_be_called_after_a_setting(tmp_path):
    (tmp_path / "runs.csv").write_text("variant,seed,accuracy\nlr=0.1,0,0.9\nlr=0.01,0,0.8\n")
    runs = tables.read(tmp_path / "runs.csv")
    asked = tables.claim("lr=0.1 > lr=0.01 in accuracy", runs, 1)
    assert (asked.left, asked.direction, asked.right) == ("lr=0.1", ">", "lr=0.01")


def test_a_metric_that_only_others_have_is_said_to_be_missing(tmp_path):
    (tmp_path / "long.csv").write_text("variant,seed,metric,value\na,0,accuracy,1\nb,0,accuracy,1\nc,0,loss,1\n")
    runs = tables.read(tmp_path / "long.csv")
    with pytest.raises(UserError, match="a has no loss"):
        tables.sides([tables.claim("a > b in loss", runs, 1)], runs)


def test_runs_that_do_not_pair_or_have_no_rival_are_refused(tmp_path):
    (tmp_path / "runs.csv").write_text("variant,seed,x\na,1,2\na,2,2\nb,2,3\n")
    with pytest.raises(UserError, match="a and b do not pair in x: seed 1 is of one of them alone"):
        tables.every_claim(tables.read(tmp_path / "runs.csv"))
    (tmp_path / "runs.csv").write_text("variant,seed,x\na,1,2\n")
    with pytest.raises(UserError, match="but the variant a"):
        tables.every_claim(tables.read(tmp_path / "runs.csv"))


def test_the_command_leaves_a_page_without_importing_jax(tmp_path):
    table = wide_table(tmp_path / "runs.csv", wide=np.where(np.arange(10) == 3, np.nan, WIDE))
    code = "import runpy, sys; sys.argv = ['judge', *sys.argv[1:]]\n"
    code += "try: runpy.run_module('experiments.judge', run_name='__main__')\n"
    code += "finally: print('loaded', [name for name in ('jax', 'flax', 'optax', 'orbax') if name in sys.modules])"
    command = [sys.executable, "-c", code, str(table), f"--workdir={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '(1) "wide > narrow" in accuracy: holds' in done.stdout and "loaded []" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not published.errors(summary, None)
    assert [claim["verdict"] for claim in summary["claims"]] == [
        "holds (A diverged in 1 of 10 seeds)",
        "holds (B diverged in 1 of 10 seeds)",
    ]
    accuracy = summary["variants"]["wide"]["metrics"]["accuracy"]
    assert (accuracy["n"], accuracy["num_failed"]) == (9, 1)


def test_the_row_numbers_of_pandas_are_no_metric(tmp_path):
    table = wide_table(tmp_path / "runs.csv").read_text().splitlines()
    for name in ("", "Unnamed: 0"):
        rows = [f"{name},{table[0]}", *(f"{number},{line}" for number, line in enumerate(table[1:]))]
        (tmp_path / "indexed.csv").write_text("\n".join(rows))
        assert tables.read(tmp_path / "indexed.csv") == tables.read(tmp_path / "runs.csv")


def test_an_accuracy_in_per_cent_needs_to_be_told_what_matters(tmp_path):
    table = wide_table(tmp_path / "runs.csv", 100 * WIDE, 100 * NARROW)
    runs = tables.read(table)
    asked = tables.claim("wide > narrow in accuracy", runs, 1)
    with pytest.raises(UserError, match=r"accuracy reaches 9\d.*--matters"):
        judge._check_unit(asked, tables.sides([asked], runs)[0])
    asked = tables.claim("wide > narrow in accuracy", runs, 1, matters=0.2)
    judge._check_unit(asked, tables.sides([asked], runs)[0])
