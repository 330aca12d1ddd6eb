"""Timing of products: arithmetic by hand, precision on operands that were cut on purpose, and what a run leaves."""

import json
import re

import forks
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from metrics_doc import unnamed

from experiments.matmul_devices import experiment as matmul
from experiments.matmul_devices import products
from mnistlab.comparison.spec import Options
from mnistlab.errors import UserError
from mnistlab.training import sizing

CPU = jax.local_devices(backend="cpu")[0]


def row(size, finished, dispatch=0.1, device="cpu"):
    finished = np.asarray(finished, float)
    return products.Row(device, size, np.full(finished.shape, dispatch), finished)


def cubic(device="cpu", exponent=3.0):
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=(4, 8)))
    sizes = (500, 1000, 5000, 10000)
    return [row(size, (size / 1000) ** exponent * n, device=device) for size, n in zip(sizes, noise, strict=True)]


def product_with_bits(bits):
    """A product whose operands keep `bits` of their fraction, rounded to nearest."""

    def cut(array):
        number = jax.lax.bitcast_convert_type(array, jnp.uint32)
        dropped = 23 - bits
        number = (number + (1 << (dropped - 1)) - 1 + ((number >> dropped) & 1)) >> dropped << dropped
        return jax.lax.bitcast_convert_type(number, jnp.float32)

    return jax.jit(lambda left, right: cut(left) @ cut(right))


def test_the_reported_time_is_impossible():
    reported = matmul._reported_ms()
    assert products.gflops(10_000, reported["gpu"][10_000]) == pytest.approx(5.153e6, rel=1e-3)
    assert reported["cpu"] == {500: 8.90463819996512, 1000: 31.14645260029647} | {
        5000: 3473.367635300201,
        10000: 28565.83050890004,
    }


def test_pairs_are_fresh_uniform_and_repeatable():
    left, right = products.random_pair(200, seed=0, number=0)
    again, other = products.random_pair(200, 0, 0)[0], products.random_pair(200, 0, 1)[0]
    assert left.dtype == np.float32 and left.min() >= 0 and left.max() < 1
    assert abs(left.mean() - 0.5) < 0.01
    np.testing.assert_array_equal(left, again)
    assert not np.array_equal(left, right) and not np.array_equal(left, other)


def test_largest_relative_error_finds_the_wrong_element():
    left, right = products.random_pair(30, 0, 0)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    wrong = exact.copy()
    wrong[3, 4] *= 1.01
    assert products.largest_relative_error(exact, left, right) == 0
    assert products.largest_relative_error(wrong, left, right) == pytest.approx(0.01)


@pytest.mark.parametrize(("bits", "name"), [(10, "TensorFloat-32"), (7, "bfloat16"), (15, "15 bits of 23")])
def test_precision_of_cut_operands_is_found_and_stays_in_its_bound(bits, name):
    product = product_with_bits(bits)
    assert products.measured_precision(product, CPU, size=32) == (bits, name)
    left, right = products.random_pair(64, 0, 0)
    error = products.largest_relative_error(np.asarray(product(left, right)), left, right)
    assert products.error_bound(64, 23) < error < products.error_bound(64, bits)


def test_cpu_multiplies_in_float32():
    product = jax.jit(products.product)
    assert products.measured_precision(product, CPU) == (23, "float32")
    (measured,) = products.measure(product, {"cpu": CPU}, 300, 3, seed=0)
    assert 0 < measured.error < products.error_bound(300, 23)
    assert measured.finished_ms.shape == (3,) and np.all(measured.finished_ms >= measured.dispatch_ms)


def test_growth_exponent_of_a_power_law():
    times = np.array([2.0, 3.0]) * np.array([[1000.0], [5000.0], [10000.0]]) ** 2.5
    np.testing.assert_allclose(matmul.growth_exponents([1000, 5000, 10000], times), [2.5, 2.5])


def test_verdicts_follow_the_clock():
    both = cubic() + cubic("gpu", 2.0)
    by_dispatch, by_finish = ([c.verdict for c in matmul._claims(both, p)] for p in ("reported", "controlled"))
    assert by_dispatch == ["holds", "holds", "holds"]
    assert by_finish == ["holds", "reversed", "holds"]
    assert [c.verdict for c in matmul._claims(cubic(exponent=2.0), "controlled")] == [
        "reversed",
        "not measured",
        "holds",
    ]
    assert [c.verdict for c in matmul._claims(cubic()[:2], "controlled")] == ["not measured"] * 3


def test_claims_state_the_exponent():
    exponent = matmul._claims(cubic(), "reported")[0]
    found = re.search(r"to the power (\S+) \[(\S+), (\S+)\], 8 rounds", exponent.sentence)
    middle, low, high = map(float, found.groups())
    assert middle == pytest.approx(3, abs=0.02) and 2.9 < low < middle < high < 3.1
    assert exponent.to_dict()["n"] == 8


def test_what_does_not_fit_is_a_row_with_its_reason(monkeypatch):
    monkeypatch.setattr(sizing, "host_memory", lambda: 10 * 2**20)
    reason = products.does_not_fit(1000, CPU)
    assert reason == "not taken: needs 0.0279 GiB on the host, 0.00977 are free"
    assert products.does_not_fit(100, CPU) == ""
    rows = products.measure(jax.jit(products.product), {"cpu": CPU}, 1000, 2, 0, {"cpu": reason})
    assert rows[0].finished_ms.size == 0 and rows[0].note == reason
    table = matmul._time_table(rows, [1000], {"cpu": CPU}, "reported")
    assert table.rows[0][3] == reason


def test_a_product_that_fails_is_a_row_with_its_reason():
    def exhausted(left, right):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    (failed,) = products.measure(exhausted, {"cpu": CPU}, 8, 2, 0)
    assert failed.note == "failed: RESOURCE_EXHAUSTED: out of memory" and failed.finished_ms.size == 0


def test_main_leaves_the_files_of_the_contract(tmp_path):
    def call(*arguments):
        given = [f"--workdir={tmp_path}", *arguments, "--rounds=3"]
        return forks.run("experiments.matmul_devices", given)

    done = call("--sizes=128,64")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert next(iter(summary["variants"])) == "cpu_64" and "cpu_128" in summary["variants"]
    metrics = summary["variants"]["cpu_128"]["metrics"]
    assert metrics["milliseconds"]["n"] == 3 and 0 < metrics["share_of_peak"]["mean"] <= 1
    mean = np.mean([2 * 128**3 / ms / 1e6 for ms in metrics["finished_milliseconds"]["values"]])
    assert metrics["gflops"]["mean"] == pytest.approx(mean)
    assert [claim["verdict"] for claim in summary["claims"]] == ["not measured"] * 3
    assert json.loads((tmp_path / "config.json").read_text())["run"]["sizes"] == [64, 128]
    assert "5.2 PFLOP/s" in (tmp_path / "report.html").read_text() and "finished, ms" in done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"times.svg", "times.png"}
    before = (tmp_path / "summary.json").read_bytes()
    again = call("--sizes=128,64")  # what ended is read, not measured once more on whatever this machine is
    assert again.returncode == 0 and "finished_milliseconds" in again.stdout.replace(" ", "_")
    assert (tmp_path / "summary.json").read_bytes() == before
    refused = call("--sizes=64")
    assert refused.returncode == 2 and "holds another run" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(("protocol", "clock"), [("reported", "dispatch"), ("controlled", "finished")])
def test_an_accelerator_gets_its_own_rows(tmp_path, monkeypatch, protocol, clock):
    monkeypatch.setattr(products, "find_devices", lambda: {"cpu": CPU, "gpu": CPU})
    monkeypatch.setattr(matmul, "QUICK_PEAK_SIZES", (64,))
    summary = matmul.run(Options(tmp_path, protocol, overrides={"limit_examples": 10}), [32, 500], 2)
    assert set(summary["variants"]) == {"cpu_32", "gpu_32", "cpu_500", "gpu_500"}
    assert not unnamed(summary) and not published.errors(summary)
    assert summary["departures"] == ["sizes 500, 1000, 5000, 10000 -> 32, 500"]
    assert {claim["verdict"].split(":")[0] for claim in summary["claims"]} <= {"changed run", "not measured"}
    gpu, cpu = (summary["variants"][name]["metrics"] for name in ("gpu_500", "cpu_500"))
    assert gpu["milliseconds"] == gpu[f"{clock}_milliseconds"]
    assert cpu["milliseconds"] == cpu["finished_milliseconds"]
    page = (tmp_path / "report.html").read_text()
    assert "there is none" not in page and "Quick look" in page


def test_quick_look_drops_the_long_sizes(tmp_path):
    sizes, quick = matmul._check(Options(tmp_path, overrides={"limit_examples": 2000}), [64, 1000, 5000], 10)
    assert sizes == [64, 1000] and quick


@pytest.mark.parametrize(("sizes", "rounds"), [([], 3), ([1, 64], 3), ([64], 0)])
def test_impossible_values(tmp_path, sizes, rounds):
    with pytest.raises(UserError):
        matmul.run(Options(tmp_path), sizes, rounds)
    assert not list(tmp_path.iterdir())
