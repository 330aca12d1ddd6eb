"""Several processes on this machine, and what launchers tell them. The oracle is the run of one process."""

import csv
import functools
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from mnistlab.devices import cluster
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
QUICK = ("--variants=dense", "--limit_examples=600", "--batch_size=100", "--progress=lines", "--optimizer=sgd")


@pytest.fixture(scope="module")
def start(start_main):
    return functools.partial(start_main, *QUICK)


def two(start, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(*arguments, f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}")
        for number in range(2)
    ]


def history(workdir):
    with (workdir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [[float(value) for name, value in row.items() if name not in ("variant", "seconds")] for row in rows]


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The history of two seeds in one process."""
    folder = tmp_path_factory.mktemp("alone")
    one = start("--epochs=2", "--seeds=2", f"--workdir={folder}")
    assert one.wait(300) == 0, one.stderr.read()
    return history(folder)


@pytest.mark.parametrize("seeds", [1, 2], ids=["split_batch", "split_seeds"])
def test_two_processes_end_as_one(start, alone, tmp_path, seeds):
    both = two(start, "--epochs=2", f"--seeds={seeds}", f"--workdir={tmp_path}")
    for process in both:
        assert process.wait(300) == 0, process.stderr.read()
    expected, got = [row for row in alone if row[0] < seeds], history(tmp_path)
    assert len(got) == len(expected) == 2 * seeds
    for mine, theirs in zip(got, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    said = [process.stdout.read() for process in both]
    assert "report.html" in said[0] and "epoch" not in said[1]


def test_two_processes_go_on_where_one_stopped(start, tmp_path):
    one = start("--epochs=100000", f"--workdir={tmp_path}")
    assert any("epoch 1/" in line for line in one.stdout)
    one.terminate()
    assert one.wait(60) == os.EX_TEMPFAIL
    both = two(start, "--epochs=100000", f"--workdir={tmp_path}")
    said = next(line for line in both[0].stdout if " epoch " in line)
    assert int(re.search(r"epoch (\d+)/", said)[1]) > 1
    both[0].terminate()
    assert [process.wait(60) for process in both] == [os.EX_TEMPFAIL] * 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_in_seconds(start, tmp_path, victim):
    both = two(start, "--epochs=100000", f"--workdir={tmp_path}")
    assert any("epoch 2/" in line for line in both[0].stdout)  # both compute
    both[victim].send_signal(signal.SIGKILL)
    other = both[1 - victim]
    assert other.wait(20) == os.EX_TEMPFAIL
    lines = [line for line in other.stderr.read().splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "has died" in lines[0]


def test_a_signal_to_one_process_ends_both_after_the_same_epoch(start, tmp_path):
    both = two(start, "--epochs=100000", f"--workdir={tmp_path}")
    assert any("epoch 2/" in line for line in both[0].stdout)
    both[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in both] == [os.EX_TEMPFAIL] * 2
    assert both[0].stderr.read().count("stopped by SIGTERM") == 1


def test_alone_is_no_cluster():
    assert cluster.find_cluster({}) is None
    assert cluster.find_cluster({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}) is None
    assert cluster.resolve_cluster("auto", {}) is None
    assert (
        cluster.resolve_cluster("off", {"SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "4"}) is None
    )


OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    "environ, host, rest",
    [
        pytest.param(OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "127.0.0.1", (4, 3, 1, 4), id="ompi_one_machine"),
        pytest.param(
            OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "9.0;tcp://10.1.2.3,172.17.0.1:4321"},
            "10.1.2.3", (4, 3, 1, 2), id="ompi_4",
        ),
        pytest.param(OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, None, (4, 3, 1, 2), id="ompi_5"),
        pytest.param(
            SLURM | {"SLURM_STEP_NODELIST": "gpu[03-04],x", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "6",
                     "SLURM_STEP_TASKS_PER_NODE": "2(x3)"},
            "gpu03", (6, 5, 1, 2), id="slurm",
        ),
        pytest.param(SLURM | {"SLURM_STEP_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_STEP_TASKS_PER_NODE": "8"},
                     "127.0.0.1", (8, 5, 1, 8), id="slurm_one_machine"),
        pytest.param({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}, "t0", (2, 1, 0, 1), id="tpu"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}, None, (None, 2, 0, 1),
                     id="k8s"),
    ],
)  # fmt: skip
def test_launchers_are_understood(environ, host, rest):
    found = cluster.find_cluster(environ)
    assert tuple(found)[2:] == rest
    if host is None:
        assert found.coordinator is None
    else:
        assert re.fullmatch(rf"{re.escape(host)}:\d+", found.coordinator)
        assert 1024 < int(found.coordinator.split(":")[1]) < 65536


def test_all_processes_of_a_job_find_the_same_port_and_others_another():
    def port(step, process):
        environ = SLURM | {"SLURM_STEP_NODELIST": "here", "SLURM_STEP_ID": step, "SLURM_PROCID": process}
        return cluster.find_cluster(environ).coordinator

    assert port("0", "0") == port("0", "7") != port("1", "0")


def test_a_batch_script_outside_srun_is_one_process():
    assert cluster.find_cluster(SLURM) is None  # it has a job and a number of tasks, but no step


def test_flags_go_before_the_environment():
    environ = OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    found = cluster.resolve_cluster("auto", environ, "head:1234", None, 2)
    assert (found.coordinator, found.num_processes, found.process_id) == ("head:1234", 4, 2)


def test_an_indexed_kubernetes_job_alone_is_a_sweep():
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
    assert cluster.resolve_cluster("auto", environ) is None
    assert cluster.resolve_cluster("auto", environ, "job-0.svc:99", 4).process_id == 2


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("maybe", {}), "distributed"),
        (("off", {}, "a:1", 2, 0), "coordinator"),
        (("on", {}, "a:1"), "num_processes"),
        (("on", {}, "a", 2, 0), "host:port"),
        (("auto", {}, "a:1", 2, 2), "process_id"),
        (("auto", OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}), "coordinator"),
        (("auto", OMPI | {"OMPI_COMM_WORLD_RANK": "x"}), "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_the_impossible_is_refused(arguments, named):
    with pytest.raises(UserError, match=named):
        cluster.resolve_cluster(*arguments)
