"""compare and power from their command lines, on run folders of made-up numbers; power's numbers against formulas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forks
import numpy as np
import published
import pytest
import scipy.stats
from run_folders import result_of, write_run

from experiments import power
from mnistlab.analysis import sequential
from mnistlab.analysis.claims import Claim

ROOT = Path(__file__).parents[1]
SEEDS = tuple(range(8))
RNG = np.random.default_rng(1)
LOW = 0.90 + 0.01 * RNG.standard_normal(8)
HIGH = LOW + 0.02 + 0.005 * RNG.standard_normal(8)
QUESTIONS = (
    Claim("a", "high is higher", "test_accuracy", "high", ">", "low"),
    Claim("b", "about 0.9", "test_accuracy", "low", "about", 0.9, 0.05),
    Claim("c", "never run", "test_accuracy", "high", ">", "other"),
)


def call(name, *arguments, pictures=False):
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return forks.run(f"experiments.{name}", list(map(str, arguments)), environ=environ, pictures=pictures)


def refused(name, folders, arguments, word, workdir):
    """Bad input is one line with `word` and status 2, and nothing is written."""
    paths = [each if each.startswith("--") else folders / each for each in arguments]
    done = call(name, *paths, f"--workdir={workdir}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and word in done.stderr
    assert not workdir.exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    high, low = result_of(HIGH, SEEDS), result_of(LOW, SEEDS)
    write_run(folder / "both", {"high": high, "low": low}, questions=QUESTIONS)
    write_run(folder / "later", {"high": low, "low": low})
    write_run(folder / "one", {"low": low})
    write_run(folder / "strange", {"low": result_of(LOW, range(100, 108))})
    write_run(folder / "single", {"high": result_of(HIGH[:1], (0,)), "low": result_of(LOW[:1], (0,))})
    damaged = write_run(folder / "damaged", {"low": low})
    (damaged / "summary.json").write_text("{")
    return folder


class TestCompare:
    def test_within_one_run(self, folders, tmp_path):
        done = call("compare", folders / "both", folders / "both", f"--workdir={tmp_path / 'out'}", pictures=True)
        assert done.returncode == 0, done.stderr
        assert '"high > low" in test accuracy: holds; mean difference +0.0' in done.stdout
        assert "smallest resolvable difference" in done.stdout and "P(A > B)" in done.stdout
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert not published.errors(summary, None)
        (claim,) = summary["claims"]
        assert claim["verdict"] == "holds" and claim["n"] == 8
        test = scipy.stats.ttest_rel(HIGH, LOW).confidence_interval()
        np.testing.assert_allclose(claim["comparison"]["t_interval"], test)
        assert summary["variants"]["high"]["metrics"]["test_accuracy"]["values"] == HIGH.tolist()
        assert {"experiment", "protocol", "data", "device", "n_seeds", "variants", "claims", "seconds"} <= set(summary)
        assert json.loads((tmp_path / "out" / "config.json").read_text())["run"]["metric"] == "test_accuracy"
        page = (tmp_path / "out" / "report.html").read_text()
        assert page.count("<svg") == 5 and "To quote" in page and "Nothing differs" in page
        figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
        assert {"seeds_test_accuracy", "differences_accuracy", "val_accuracy_1", "val_loss_1", "history_1"} == figures

    def test_two_runs_variant_by_variant_and_once_more_in_the_same_folder(self, folders, tmp_path):
        for _ in range(2):
            done = call("compare", folders / "both", folders / "later", "--direction=<", f"--workdir={tmp_path}")
            assert done.returncode == 0, done.stderr
        first, second = json.loads((tmp_path / "summary.json").read_text())["claims"]
        assert first["left"] == "high (both)" and first["verdict"] == "reversed"
        assert first["p"] == 2 * first["comparison"]["standing"]["p_differs"]  # Holm over two claims
        assert second["verdict"] == "no difference that matters" and second["delta"] == 0.0

    def test_of_three_runs_each_of_the_others_is_compared_with_the_first(self, folders, tmp_path):
        done = call("compare", *(folders / name for name in ("one", "both", "later")), f"--workdir={tmp_path}")
        assert done.returncode == 0, done.stderr
        assert "A: mnist, " in done.stdout and "B2: mnist, " in done.stdout
        summary = json.loads((tmp_path / "summary.json").read_text())
        asked = [(claim["left"], claim["right"]) for claim in summary["claims"]]
        assert asked == [("low (one)", "low (both)"), ("low (one)", "low (later)")]
        assert set(summary["variants"]) == {name for pair in asked for name in pair}

    def test_of_one_run_the_other_variants_are_compared_with_the_first(self, folders, tmp_path):
        results = {name: result_of(LOW + shift, SEEDS) for name, shift in (("a", 0.0), ("b", 0.1), ("c", 0.2))}
        write_run(tmp_path / "run", results)
        for flag, left, rights in (("--metric=test_accuracy", "a", ["b", "c"]), ("--variant_a=c", "c", ["a", "b"])):
            done = call("compare", tmp_path / "run", flag, f"--workdir={tmp_path / 'out'}")
            assert done.returncode == 0, done.stderr
            claims = json.loads((tmp_path / "out" / "summary.json").read_text())["claims"]
            assert {claim["left"] for claim in claims} == {left} and [claim["right"] for claim in claims] == rights
            assert claims[0]["p"] == 2 * claims[0]["comparison"]["standing"]["p_differs"]  # Holm over two claims

    @pytest.mark.parametrize(
        "arguments, word",
        [
            pytest.param([], "RUN... is missing", id="no folder"),
            pytest.param(["one"], "low", id="one variant of one run"),
            pytest.param(["both", "one", "third"], "third", id="three folders"),
            pytest.param(["both", "nowhere"], "nowhere", id="no such folder"),
            pytest.param(["both", "damaged"], "damaged", id="damaged"),
            pytest.param(["one", "strange"], "pair", id="other seeds"),
            pytest.param(["one", "one"], "low", id="the same twice"),
            pytest.param(["both", "one", "--variant_a=medium"], "medium", id="unknown variant"),
            pytest.param(["both", "one", "--metric=beauty"], "beauty", id="unknown metric"),
            pytest.param(["both", "one", "--metric=val_loss@99"], "val_loss@99", id="no such epoch"),
            pytest.param(["both", "one", "--direction=~"], "direction", id="another direction"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(self, folders, tmp_path, arguments, word):
        refused("compare", folders, arguments, word, tmp_path / "out")

    def test_the_folder_of_a_run_is_never_overwritten(self, folders):
        before = (folders / "later" / "summary.json").read_text()
        done = call("compare", folders / "both", folders / "both", f"--workdir={folders / 'later'}")
        assert done.returncode == 2 and "another run" in done.stderr
        assert (folders / "later" / "summary.json").read_text() == before


def t_test_power(n, effect, alpha):
    """The noncentral t distribution, from scipy.stats."""
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    return scipy.stats.nct.sf(critical, n - 1, effect * np.sqrt(n))


class TestPower:
    def test_pairs_needed_are_the_fewest_with_the_power(self):
        differences = HIGH - LOW
        sd = differences.std(ddof=1)
        need = power.need(differences, 0.7 * sd, num_claims=5)
        assert t_test_power(need.pairs, 0.7, 0.05) >= 0.8 > t_test_power(need.pairs - 1, 0.7, 0.05)
        assert t_test_power(need.pairs_holm, 0.7, 0.01) >= 0.8 > t_test_power(need.pairs_holm - 1, 0.7, 0.01)
        low, high = sd * np.sqrt(7 / scipy.stats.chi2.ppf([0.975, 0.025], 7))
        for pairs, end in ((need.fewest, low), (need.most, high)):
            effect = 0.7 * sd / end
            assert t_test_power(pairs, effect, 0.05) >= 0.8 > t_test_power(pairs - 1, effect, 0.05)

    def test_never_fewer_than_a_verdict_needs(self):
        need = power.need(np.array([1.0, 1.001, 0.999]), num_claims=6)
        assert need.observed and need.difference == pytest.approx(1.0)
        assert (need.pairs, need.fewest, need.pairs_holm) == (6, 6, 8)  # 2^-5 < 0.05; 2^-7 < 0.05 / 6

    def test_no_number_of_pairs_finds_no_difference(self):
        assert power.need(np.array([-1.0, 1.0])) == power.Need(0.0, True, None, None, None, None)
        rounded = np.array([-0.1, 0.1, 1e-17])  # their mean is the rounding of 0
        assert power.need(rounded)[2:] == power.need(rounded, 1e-300)[2:] == (None, None, None, None)

    def test_the_curve_is_the_inverse_of_the_pairs_needed(self):
        pilot = power.Pilot("a", "test_accuracy", HIGH - LOW, 0)
        numbers = np.array([6, 10, 40])
        middle, low, high = power.curve(pilot, numbers)
        for n, difference in zip(numbers, middle, strict=True):
            assert power.need(pilot.differences, 1.0001 * difference).pairs == n
        assert (low < middle).all() and (middle < high).all()

    def test_every_claim_and_given_differences(self, folders, tmp_path):
        done = call("power", folders / "both", "--difference=0.001,0.01", f"--workdir={tmp_path}", pictures=True)
        assert done.returncode == 0, done.stderr
        assert "(a) high − low" in done.stdout and "chi-square" in done.stdout
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert not published.errors(summary, None)
        first, second = summary["power"]
        expected = power.need(HIGH - LOW, 0.01, num_claims=2)
        assert first["needs"][1] == expected._asdict() and len(first["needs"]) == 3
        assert first["needs"][2]["difference"] == pytest.approx(np.mean(HIGH - LOW))
        assert second["needs"][2]["difference"] == pytest.approx(LOW.mean() - 0.9)
        rows = [line.split("  ") for line in done.stdout.splitlines() if line.startswith("(b) low")][:3]
        for row, moved in zip(rows, (0.001 - np.mean(LOW - 0.9), 0.01 - np.mean(LOW - 0.9), 0.0), strict=True):
            expected = sequential.expected_num_pairs(LOW - 0.9 + moved, 0.05, 0.05, power.MOST_PAIRS, "=")
            assert [cell.strip() for cell in row if cell][-4:-2] == [str(expected.median), str(expected.most)]
        page = (tmp_path / "report.html").read_text()
        assert page.count("<svg") == 2
        assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"power_1", "power_2"}

    def test_two_variants_by_a_metric(self, folders, tmp_path):
        names = ("--variant_a=low", "--variant_b=high", "--metric=overfitting_gap")
        done = call("power", folders / "both", *names, f"--workdir={tmp_path}")
        assert done.returncode == 0, done.stderr
        (pilot,) = json.loads((tmp_path / "summary.json").read_text())["power"]
        assert pilot["sd"] == pytest.approx(np.std(HIGH - LOW, ddof=1) / 10)

    @pytest.mark.parametrize(
        "arguments, word",
        [
            pytest.param([], "RUN", id="no folder"),
            pytest.param(["nowhere"], "nowhere", id="no such folder"),
            pytest.param(["both", "--claim=z"], "'z'", id="unknown claim"),
            pytest.param(["both", "--claim=c"], "'c'", id="a claim that was not measured"),
            pytest.param(["both", "--claim=a", "--variant_a=low"], "--claim", id="claim and variants"),
            pytest.param(["both", "--difference=0"], "difference", id="zero"),
            pytest.param(["both", "--difference=much"], "much", id="no number"),
            pytest.param(["later"], "no claim", id="no claims"),
            pytest.param(["single", "--variant_a=high", "--variant_b=low"], "seeds", id="one seed"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(self, folders, tmp_path, arguments, word):
        refused("power", folders, arguments, word, tmp_path / "out")


@pytest.mark.parametrize("tool, runs", [("compare", ("both", "one")), ("power", ("both",))])
def test_tools_that_only_read_start_without_jax(folders, tmp_path, tool, runs):
    arguments = ["x", *(str(folders / name) for name in runs), f"--workdir={tmp_path}"]
    code = f"import runpy, sys\nsys.argv = {arguments!r}\n"
    code += f"try: runpy.run_module('experiments.{tool}', run_name='__main__')\n"
    code += "finally: print({'jax', 'flax', 'optax', 'orbax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()"), done.stderr


class TestGather:
    def test_parts_of_a_sweep_become_a_run_that_the_other_tools_read(self, tmp_path):
        for name, part in (("seeds_0", slice(0, 4)), ("seeds_4", slice(4, 8))):
            results = {"lenet5": result_of(HIGH[part], SEEDS[part]), "dense": result_of(LOW[part], SEEDS[part])}
            (tmp_path / "sweep").mkdir(exist_ok=True)
            write_run(tmp_path / "sweep" / name, results, experiment="lenet_vs_dense")
        out = tmp_path / "out"
        done = call("gather", tmp_path / "sweep", f"--workdir={out}")
        assert done.returncode == 0, done.stderr
        assert "2 runs, 8 seeds" in done.stdout
        summary = json.loads((out / "summary.json").read_text())
        assert not published.errors(summary, None)
        assert summary["n_seeds"] == 8
        np.testing.assert_allclose(summary["variants"]["lenet5"]["metrics"]["test_accuracy"]["values"], HIGH)
        claim = summary["claims"][0]
        assert (claim["verdict"], claim["delta"]) == ("holds", pytest.approx((HIGH - LOW).mean()))
        parts, joined = (
            json.loads((path / "config.json").read_text()) for path in (tmp_path / "sweep" / "seeds_0", out)
        )
        for name in parts.keys() - {"run", "command", "digests"}:  # trained on what they were trained on
            assert joined[name] == parts[name], name
        compared = call("compare", out, out, f"--workdir={tmp_path / 'compared'}")
        assert compared.returncode == 0, compared.stderr
        assert call("gather", tmp_path / "sweep", f"--workdir={out}").returncode == 0  # again

    def test_a_changed_run_stays_one_in_every_tool(self, tmp_path):
        results = {"lenet5": result_of(LOW, SEEDS), "dense": result_of(HIGH, SEEDS)}
        (tmp_path / "sweep").mkdir()
        folder = write_run(
            tmp_path / "sweep" / "all", results, experiment="lenet_vs_dense", departures=["epochs 20 -> 3"]
        )
        for tool, *arguments in (
            ("gather", tmp_path / "sweep"),
            ("compare", folder, folder),
            ("power", folder, "--variant_a=lenet5", "--variant_b=dense"),
        ):
            out = tmp_path / tool
            done = call(tool, *arguments, f"--workdir={out}")
            assert done.returncode == 0, done.stderr
            assert json.loads((out / "summary.json").read_text())["departures"] == ["epochs 20 -> 3"]
            assert "epochs 20 -&gt; 3" in (out / "report.html").read_text()
        claim = json.loads((tmp_path / "gather" / "summary.json").read_text())["claims"][0]
        assert claim["verdict"] == "changed run: the opposite holds" and "reversed" not in claim["sentence"]

    def test_bad_input_is_one_line(self, folders, tmp_path):
        for arguments, message in (
            ((tmp_path,), "no folders of runs"),
            ((folders,), "is damaged"),
        ):
            done = call("gather", *arguments, f"--workdir={tmp_path / 'out'}")
            assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
