"""Many devices and many processes: the one place for meshes, pmap, shard_map and jax.distributed.

The mesh has two axes. "seeds" holds the runs of a crowd, which need nothing of each other; devices that are left over
split the "batch", over which gradients and batch statistics are summed. Of several processes all compute, and the
first alone prepares the data and writes.
"""

import math
import pickle
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnistlab.errors import UserError

SEEDS, BATCH = "seeds", "batch"
STRATEGIES = ("auto", "jit", "pmap", "shard_map")


class Layout(NamedTuple):
    """Which devices train, and by which of JAX's means."""

    devices: tuple[jax.Device, ...]
    strategy: str  # jit (shardings, the compiler splits), pmap, shard_map (the step of one device, written out)
    cores: bool = False  # the devices are cores of one CPU: they take whole runs, never parts of a batch


def make_layout(num_devices: int | None = None, strategy: str = "auto") -> Layout | None:
    """The first `num_devices` devices of each process (None: all); None for one device and strategy auto: plain jit.

    With strategy auto, devices that JAX made of one CPU are its cores: a run is quicker on one of them than spread
    over several.

    Raises:
      UserError: an unknown strategy, more devices than there are, or pmap over several processes.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"parallel is {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    local = jax.local_device_count()
    if num_devices is not None and not 1 <= num_devices <= local:
        raise UserError(
            f"devices is {num_devices}; expected 1 to {local}, what JAX finds here "
            "(XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of a CPU)"
        )
    if strategy == "pmap" and jax.process_count() > 1:
        raise UserError("parallel is pmap; several processes take jit or shard_map")
    devices: list[jax.Device] = []
    for process in range(jax.process_count()):
        devices += [device for device in jax.devices() if device.process_index == process][:num_devices]
    if len(devices) == 1 and strategy == "auto":
        return None
    if strategy == "auto" and num_devices is None and jax.process_count() == 1 and devices[0].platform == "cpu":
        return Layout(tuple(devices), "shard_map", cores=True)
    return Layout(tuple(devices), "jit" if strategy == "auto" else strategy)


class Grid(NamedTuple):
    """A layout's mesh for a crowd; without a mesh everything stays on one device, as it is."""

    mesh: Mesh | None = None
    strategy: str = "jit"

    @property
    def num_devices(self) -> int:
        """Devices that the crowd is spread over."""
        return self._size(SEEDS) * self._size(BATCH)

    @property
    def takes_all_cores(self) -> bool:
        """Whether every device that JAX made of this CPU has a run of its own, and no core is left to help another."""
        return (
            self.mesh is not None
            and self._size(SEEDS) == jax.local_device_count() > 1
            and self.mesh.devices.flat[0].platform == "cpu"
        )

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step of one device must sum; None where each device sees whole batches."""
        return BATCH if self.strategy != "jit" and self._size(BATCH) > 1 else None

    def spec(self, *axes: str | None) -> P:
        """The PartitionSpec of these axes; an axis of one device is left out."""
        return P(*(axis if axis == SEEDS or (axis and self._size(axis) > 1) else None for axis in axes))

    def round_up(self, size: int) -> int:
        """The smallest batch of at least `size` that the devices of the batch axis divide."""
        return -(-size // self._size(BATCH)) * self._size(BATCH)

    def put(self, tree: Any, specs: Any) -> Any:
        """`tree` laid over the devices; `specs` is a PartitionSpec, or a tree of them with subtrees of `tree` below."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda spec, part: self._put_part(part, spec), specs, tree, is_leaf=_is_spec)

    def build(self, shape: tuple[int, ...], spec: P, read: Callable[[Any], np.ndarray]) -> jax.Array:
        """An array over the mesh, read(index) a part of it; a process reads those of its own devices, each once."""
        assert self.mesh is not None
        parts: dict[str, np.ndarray] = {}  # devices that hold the same part

        def read_once(index: Any) -> np.ndarray:
            if str(index) not in parts:
                parts[str(index)] = read(index)
            return parts[str(index)]

        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), read_once)

    def spread(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function` over the devices, to be compiled by `jit`: itself where the compiler splits it."""
        if self.mesh is None or self.strategy == "jit":
            return function
        if self.strategy == "pmap":
            return _pmap(function, self.mesh, in_specs, out_specs)
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)

    def jit_options(self, out_specs: Any) -> dict[str, Any]:
        """What `jit` must be told for results to lie as `out_specs` say."""
        if self.mesh is None:
            return {}
        mesh = self.mesh
        return {"out_shardings": jax.tree.map(lambda spec: NamedSharding(mesh, spec), out_specs, is_leaf=_is_spec)}

    def _size(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def gather(self, tree: Any) -> Any:
        """`tree` such that this process can read all of it; every process must call it."""
        if self.mesh is None or jax.process_count() == 1:
            return tree
        return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(self.mesh, P()))(tree)

    def _put_part(self, part: Any, spec: P) -> Any:
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(part, sharding)
        return jax.tree.map(lambda leaf: _put_global(leaf, sharding), part)


def make_grid(layout: Layout | None, num_runs: int) -> Grid:
    """The grid for a crowd: as many devices on the seeds axis as divide the runs, the rest on the batch axis.

    pmap maps one axis: the seeds where all devices find runs, else the batch. Cores that find no run stay idle.
    """
    if layout is None:
        return Grid()
    num_devices = len(layout.devices)
    if layout.cores:
        num_devices = max(number for number in range(1, num_devices + 1) if num_runs % number == 0)
        if num_devices == 1:
            return Grid()
        layout = layout._replace(devices=layout.devices[:num_devices])
    num_seeds = math.gcd(num_devices, num_runs)
    if layout.strategy == "pmap" and num_seeds < num_devices:
        num_seeds = 1
    devices = np.array(layout.devices, object).reshape(num_seeds, -1)
    return Grid(Mesh(devices, (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2), layout.strategy)


def _put_global(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, each of which holds the whole `leaf`."""
    if _is_key(leaf):
        data = _put_global(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _pmap(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """pmap of `function` over the mesh's one axis that is mapped; arguments and results keep their shapes."""
    axis = BATCH if mesh.shape[BATCH] > 1 else SEEDS
    size = mesh.shape[axis]

    def dimension(spec: P) -> int | None:
        return spec.index(axis) if axis in spec else None

    def dimensions(specs: Any) -> Any:
        return jax.tree.map(dimension, specs, is_leaf=_is_spec)

    def split(spec: P, leaf: Any) -> Any:
        at = dimension(spec)
        return leaf if at is None else leaf.reshape(*leaf.shape[:at], size, -1, *leaf.shape[at + 1 :])

    def join(spec: P, leaf: Any) -> Any:
        at = dimension(spec)
        return leaf if at is None else leaf.reshape(*leaf.shape[:at], -1, *leaf.shape[at + 2 :])

    def mapped(*args: Any) -> Any:
        parts = _map(split, in_specs, args)
        call = jax.pmap(
            function,
            axis_name=axis,
            in_axes=dimensions(in_specs),
            out_axes=dimensions(out_specs),
            devices=list(mesh.devices.flat),
        )
        return _map(join, out_specs, call(*parts))

    return mapped


def _map(function: Callable, specs: Any, tree: Any) -> Any:
    """function(spec, leaf) for every leaf of `tree`, of which `specs` is a prefix."""
    return jax.tree.map(
        lambda spec, part: jax.tree.map(lambda leaf: function(spec, leaf), part), specs, tree, is_leaf=_is_spec
    )


def _is_spec(value: Any) -> bool:
    return isinstance(value, P)


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


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """What Open MPI, Slurm, Cloud TPU or Kubernetes tell a process in its environment; None for one that is alone.

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


def join(cluster: Cluster, *, heartbeat_seconds: int, connect_seconds: int = 60) -> None:
    """Makes this process one of the cluster's; before any device is touched.

    The first process listens on the loopback device where all are on one machine, else on every address. A process
    that dies is noticed at once in a sum over processes, else after `heartbeat_seconds`.

    Raises:
      UserError: the others do not come.
    """
    if cluster.coordinator is None:  # what no variable tells, such as the metadata of a TPU VM
        try:
            jax.distributed.initialize(
                initialization_timeout=connect_seconds, heartbeat_timeout_seconds=heartbeat_seconds
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
            initialization_timeout=connect_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
            coordinator_bind_address=cluster.coordinator if host in (LOOPBACK, "localhost") else None,
        )
    except RuntimeError as error:
        raise UserError(
            f"the {cluster.num_processes} processes did not meet at {cluster.coordinator} within {connect_seconds} s "
            f"({str(error).splitlines()[0]}); start all of them, with the same --coordinator"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def first_then_others(prepare: Callable[[], Any]) -> Any:
    """prepare() in the first process, and only then in the others."""
    value = prepare() if is_first() else None
    if jax.process_count() == 1:
        return value
    multihost_utils.sync_global_devices("prepared")
    return value if is_first() else prepare()


def from_first(tree: Any) -> Any:
    """The first process's `tree` of arrays and keys in every process, on the host; every process must call it."""
    if jax.process_count() == 1:
        return tree
    data = jax.tree.map(lambda leaf: _KeyData(*_key_parts(leaf)) if _is_key(leaf) else np.asarray(leaf), tree)
    sent = np.frombuffer(pickle.dumps(data if is_first() else None), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(sent))))
    sent = sent if is_first() else np.zeros(size, np.uint8)
    received = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8).tobytes())
    return jax.tree.map(
        lambda leaf: jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, _KeyData) else leaf,
        received,
        is_leaf=lambda leaf: isinstance(leaf, _KeyData),
    )


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


class _KeyData(NamedTuple):
    data: Any
    impl: str


def _key_parts(key: jax.Array) -> tuple[np.ndarray, str]:
    return np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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
