"""Many processes: which one this is, how they join, and what they tell each other; all of jax.distributed is here.

All of them compute; the first alone prepares the data and writes.
"""

import pickle
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnistlab.errors import UserError


class Cluster(NamedTuple):
    """Which of how many processes this is; None where the environment does not say."""

    found_by: str  # the launcher
    coordinator: str | None  # host:port of the first process
    num_processes: int | None
    process_id: int | None
    local_id: int = 0  # among the processes of this machine
    num_local: int = 1


MODES = ("auto", "on", "off")
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 60


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """What Open MPI, Slurm, Cloud TPU or Kubernetes tell a process in its environment; None for one that is alone.

    Raises:
      UserError: a launcher says something that is no number.

    >>> find_cluster({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    ...               "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMIX_NAMESPACE": "a@1"})[2:]
    (2, 1, 1, 2)
    """

    def number(name: str, default: int) -> int:
        text = environ.get(name, str(default))
        if not text.isdecimal():
            raise UserError(f"the environment says {name}={text!r}; expected a whole number")
        return int(text)

    if "OMPI_COMM_WORLD_RANK" in environ:
        size, num_local = number("OMPI_COMM_WORLD_SIZE", 1), number("OMPI_COMM_WORLD_LOCAL_SIZE", 1)
        job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid") or ""
        # Release 4 names the machine of mpirun; release 5 names none that all processes share.
        contact = re.search(r"tcp://([\d.]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
        host = LOOPBACK if num_local == size else contact[1] if contact else None
        coordinator = host and f"{host}:{_port(job)}"
        local_id = number("OMPI_COMM_WORLD_LOCAL_RANK", 0)
        found = Cluster("Open MPI", coordinator, size, number("OMPI_COMM_WORLD_RANK", 0), local_id, num_local)
    elif {"SLURM_STEP_NODELIST", "SLURM_PROCID"} <= environ.keys():  # in a batch script without srun there is no step
        size = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
        num_nodes = number("SLURM_STEP_NUM_NODES", number("SLURM_NNODES", 1))
        host = LOOPBACK if num_nodes == 1 else _first_host(environ["SLURM_STEP_NODELIST"])
        job = f"{environ.get('SLURM_JOB_ID', '')}.{environ.get('SLURM_STEP_ID', '')}"
        per_node = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        num_local = int(per_node[0]) if per_node else 1
        coordinator = f"{host}:{_port(job)}"
        found = Cluster(
            "Slurm", coordinator, size, number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0), max(num_local, 1)
        )
    elif "TPU_WORKER_HOSTNAMES" in environ:
        hosts = environ["TPU_WORKER_HOSTNAMES"].split(",")
        found = Cluster("Cloud TPU", f"{hosts[0]}:8476", len(hosts), number("TPU_WORKER_ID", 0))
    elif {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environ.keys():
        found = Cluster("Kubernetes", None, None, number("JOB_COMPLETION_INDEX", 0))
    else:
        return None
    return None if found.num_processes == 1 else found


def resolve_cluster(
    mode: str,
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Cluster | None:
    """The cluster that the flags and the environment name together, flags first; None for one process.

    With mode "on" and nothing named, the cluster is left to JAX's own detection.

    Raises:
      UserError: something is missing or impossible.
    """
    if mode not in MODES:
        raise UserError(f"distributed is {mode!r}; expected one of {', '.join(MODES)}")
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    given = {name: value for name, value in given.items() if value is not None}
    if mode == "off":
        if given:
            raise UserError(f"{next(iter(given))} is set, but distributed is off; use --distributed=on")
        return None
    cluster = find_cluster(environ)
    if cluster is None and not given:
        return None if mode == "auto" else Cluster("JAX", None, None, None)
    cluster = (cluster or Cluster("flags", None, None, None))._replace(**given)  # type: ignore[arg-type]
    if cluster.found_by == "Kubernetes" and mode == "auto" and not given:
        return None  # an indexed job, which may well be a sweep of single processes
    missing = [name for name in ("coordinator", "num_processes", "process_id") if getattr(cluster, name) is None]
    if missing:
        raise UserError(
            f"several processes are asked for, and {cluster.found_by} does not say which; give --{missing[0]}"
        )
    assert cluster.coordinator is not None and cluster.num_processes is not None and cluster.process_id is not None
    if not re.fullmatch(r".+:\d+", cluster.coordinator):
        raise UserError(f"coordinator is {cluster.coordinator!r}; expected host:port of the first process")
    if cluster.num_processes < 1:
        raise UserError(f"num_processes is {cluster.num_processes}; expected at least 1")
    if not 0 <= cluster.process_id < cluster.num_processes:
        raise UserError(
            f"process_id is {cluster.process_id}; expected 0 to {cluster.num_processes - 1}, fewer than num_processes"
        )
    return cluster


def join(cluster: Cluster, *, heartbeat_seconds: int) -> None:
    """Makes this process one of the cluster's; before any device is touched.

    The first process listens on the loopback device where all are on one machine, else on every address. A process
    that dies is noticed at once in a sum over processes, else after `heartbeat_seconds`.

    Raises:
      UserError: the others do not come.
    """
    if cluster.coordinator is None:  # what no variable tells, such as the metadata of a TPU VM
        try:
            jax.distributed.initialize(
                initialization_timeout=CONNECT_SECONDS, heartbeat_timeout_seconds=heartbeat_seconds
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                "distributed is on, and neither a launcher nor JAX knows of several processes; "
                "give --coordinator, --num_processes and --process_id"
            ) from error
        return
    host = cluster.coordinator.rsplit(":", 1)[0]
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            # One device each where several processes share a machine; without accelerators it changes nothing.
            local_device_ids=[cluster.local_id] if cluster.num_local > 1 else None,
            cluster_detection_method="deactivate",
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=heartbeat_seconds,
            coordinator_bind_address=cluster.coordinator if host in (LOOPBACK, "localhost") else None,
        )
    except RuntimeError as error:
        raise UserError(
            f"the {cluster.num_processes} processes did not meet at {cluster.coordinator} within {CONNECT_SECONDS} s "
            f"({str(error).splitlines()[0]}); start all of them, with the same --coordinator"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def first_then_others(prepare: Callable[[], Any]) -> Any:
    """prepare() in the first process, and only then in the others."""
    if jax.process_count() == 1:
        return prepare()
    multihost_utils.sync_global_devices("joined")  # gloo gives a first meeting half a minute, a later one half an hour
    value = prepare() if is_first() else None
    multihost_utils.sync_global_devices("prepared")
    return value if is_first() else prepare()


def from_first(tree: Any) -> Any:
    """The first process's `tree` of arrays in every process, on the host; every process must call it."""
    if jax.process_count() == 1:
        return tree
    sent = np.frombuffer(pickle.dumps(jax.tree.map(np.asarray, tree) if is_first() else None), np.uint8)
    high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(len(sent), 2**30), np.int32))  # none holds 2 GiB
    sent = sent if is_first() else np.zeros((int(high) << 30) + int(low), np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8).tobytes())


def agree(number: int) -> int:
    """The largest `number` of all processes; every process must call it."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def is_lost_process(error: BaseException) -> bool:
    """Whether `error` is what a sum over processes raises when one of them has died."""
    signs = ("gloo", "nccl", "coordination", "heartbeat", "connection closed", "connection reset")
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    return several and any(sign in str(error).lower() for sign in signs)


def _port(job: str) -> int:
    """A port that all processes of a job find without talking, another for most other jobs."""
    return 61440 + zlib.crc32(job.encode()) % 4096


def _first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts.

    >>> [_first_host(text) for text in ("node7", "a1,b2", "gpu-[003-005,9],x", "rack2n[7]")]
    ['node7', 'a1', 'gpu-003', 'rack2n7']
    """
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", hosts)
    return "".join(part for part in match.groups() if part) if match else hosts
