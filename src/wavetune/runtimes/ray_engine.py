"""Rounds trained by Ray: every worker is an actor, on this machine or on those of a cluster.

A cluster is trusted: Ray's own processes exchange pickled calls. What is sent are wavetune's values and arrays, never a
user's code, and no file is read that way.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from wavetune.errors import ConfigError, DeploymentError, WavetuneError, first_line
from wavetune.runtimes.engine import Engine, Trainer
from wavetune.runtimes.fleet import WorkerLostError
from wavetune.runtimes.provenance import versions
from wavetune.runtimes.ray_worker import RayWorker
from wavetune.runtimes.session import Session
from wavetune.runtimes.sliced import job_of, slices_of, training_in
from wavetune.runtimes.worker import Introduction, Job, StateLostError

RESTARTS = 5
_PATIENCE_S = 600.0
_REACH_S = 10.0
_LOOK_S = 2.0  # between looks at the cluster's machines while an answer is awaited
_OBJECT_STORE_BYTES = 1 << 28
_LOST = ("RayActorError", "ObjectLostError", "NodeDiedError", "WorkerCrashedError", "OutOfMemoryError")
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns; workers without a GPU use none anyway
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it warns of actors whose arguments might be lost; the fleet holds them
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Place:
    """What each worker asks for: a GPU, or so many CPU cores."""

    workers: int
    cores: int
    gpu: bool


@dataclass
class RayFleet:
    """Workers as actors. One that dies is started again by Ray, up to RESTARTS times."""

    ray: Any
    job: Job
    slices: Sequence[range]
    place: Place
    _actors: list[Any] = field(default_factory=list[Any], init=False)
    _job: Any = field(default=None, init=False)  # held, since a worker that is started again needs it

    def __post_init__(self) -> None:
        self._job = self.ray.put(self.job)
        actor = self.ray.remote(RayWorker).options(
            num_cpus=self.place.cores,
            num_gpus=int(self.place.gpu),
            max_restarts=RESTARTS,
            scheduling_strategy="SPREAD",
        )
        device = "cuda" if self.place.gpu else "cpu"
        self._actors = [actor.remote([self._job], clients, device) for clients in self.slices]

    def introductions(self) -> list[Introduction]:
        """Every worker's, once its model is loaded. Raises DeploymentError if Ray does not start all in time."""
        everyone = [(worker, ()) for worker in range(len(self._actors))]
        return self.ask("introduce", everyone, again=True, timeout_s=_PATIENCE_S)

    def peaks_bytes(self) -> list[int]:
        """The largest resident memory of every worker so far."""
        return self.ask("peak_bytes", [(worker, ()) for worker in range(len(self._actors))], again=True)

    def ask(
        self,
        method: str,
        requests: Sequence[tuple[int, tuple[Any, ...]]],
        again: bool = False,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """What a method of these workers answers to these arguments, in order; see `Fleet`.

        Raises DeploymentError if a worker cannot be had any more.
        """
        errors, retries = self.ray.exceptions, -1 if again else 0
        lost = tuple(getattr(errors, name) for name in _LOST)
        answers = [
            self._actors[worker].answer.options(max_task_retries=retries).remote(method, *arguments)
            for worker, arguments in requests
        ]
        try:
            return self._await(answers, math.inf if timeout_s is None else time.monotonic() + timeout_s)
        except lost as error:
            if again:
                raise DeploymentError(
                    f"a worker died more than {RESTARTS} times ({first_line(error)}); the last checkpoint is kept, "
                    "continue with --resume"
                ) from error
            raise WorkerLostError("a worker died") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, StateLostError):
                raise WorkerLostError("a worker was started again") from error
            if isinstance(error.cause, WavetuneError):
                raise error.cause from None
            raise

    def _await(self, answers: list[Any], until: float) -> list[Any]:
        """What was answered. Ray would wait for ever for room where a machine has left."""
        while True:
            try:
                return self.ray.get(answers, timeout=_LOOK_S)
            except self.ray.exceptions.GetTimeoutError:
                count = self.place.workers
                if room(alive(self.ray), self.place.cores, self.place.gpu) < count:
                    raise DeploymentError(
                        f"a machine left the Ray cluster, and those that remain have no room for {count} workers; the "
                        "last checkpoint is kept, continue with --resume and fewer --workers, or once it is back"
                    ) from None
                if time.monotonic() > until:
                    raise DeploymentError(
                        f"Ray did not start {count} workers within {_PATIENCE_S:.0f} s; the cluster may be busy, or "
                        "give fewer --workers"
                    ) from None

    def share(self, value: Any) -> Any:
        """A reference to a value in Ray's object store."""
        return self.ray.put(value)

    def stop(self) -> None:
        """End the workers."""
        for actor in self._actors:
            self.ray.kill(actor)


def engine(workers: int | None = None, address: str | None = None) -> Engine:
    """What trains a run's rounds in so many workers: on this machine, or on the Ray cluster at an address.

    Without a number there is one worker for each GPU of the cluster, or for each machine where no GPU is used.
    """
    if address is not None and address.startswith("ray://"):
        raise ConfigError(
            f"--ray {address} is the address of a Ray client; start wavetune on a machine of the cluster with "
            "--ray auto or --ray HOST:6379"
        )
    if address is not None:
        _require_open(address)

    @contextmanager
    def opened(session: Session, say: Callable[[str], None]) -> Iterator[Trainer]:
        if workers is not None:
            slices_of(session, workers)
        say("starting Ray on this machine" if address is None else f"joining the Ray cluster at {address}")
        with connected(address, workers or 1) as ray:
            place = placed(alive(ray), workers, len(session.rows_by_client), session.recipe.run.device)
            fleet = RayFleet(ray, job_of(session), slices_of(session, place.workers), place)
            try:
                for line in _lines(fleet):
                    say(line)
                with training_in(session, fleet, say) as trainer:
                    yield trainer
                with suppress(DeploymentError):  # all is done, a worker that is gone has nothing to say
                    for worker, peak_bytes in enumerate(fleet.peaks_bytes()):
                        say(f"worker {worker} took {peak_bytes / 1e6:,.0f} MB of memory at most")
            finally:
                fleet.stop()

    return opened


def alive(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has, of those that are there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(nodes: Sequence[dict[str, float]], cores: int, gpu: bool) -> int:
    """How many workers these nodes hold that ask for so many CPU cores and maybe a GPU.

    >>> room([{"CPU": 8, "GPU": 2}, {"CPU": 5}], 3, False), room([{"CPU": 8, "GPU": 2}, {"CPU": 5}], 1, True)
    (3, 2)
    """
    return sum(min(int(n.get("CPU", 0)) // cores, int(n.get("GPU", 0)) if gpu else sys.maxsize) for n in nodes)


def placed(nodes: Sequence[dict[str, float]], workers: int | None, clients: int, device: str) -> Place:
    """What each worker asks for, given the CPU and GPU resources of the nodes. Raises ConfigError without enough.

    >>> placed([{"CPU": 8, "GPU": 2}, {"CPU": 4}], None, 5, "auto")
    Place(workers=2, cores=1, gpu=True)
    >>> placed([{"CPU": 8}, {"CPU": 5}], 3, 5, "auto")
    Place(workers=3, cores=4, gpu=False)
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    gpu = device == "cuda" or (device == "auto" and gpus > 0)
    count = workers or max(1, min(gpus if gpu else len(nodes), clients))
    if gpu and count > gpus:
        raise ConfigError(
            f"{count} workers ask for a GPU each, and Ray sees {gpus}; give fewer --workers, or --device cpu"
        )
    cores = [int(node.get("CPU", 0)) for node in nodes]
    each = next((n for n in range(1 if gpu else max(cores), 0, -1) if room(nodes, n, gpu) >= count), 0)
    if not each:
        where = "beside its GPU" if gpu else "each"
        raise ConfigError(f"{count} workers need a CPU core {where}, and Ray sees {sum(cores)}; give fewer --workers")
    return Place(count, each, gpu)


@contextmanager
def connected(address: str | None, workers: int) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at an address or to one started here for as long as the context lasts.

    Where this process is connected already it stays so. Raises ConfigError without Ray, DeploymentError if it does not
    answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError("workers need Ray: install it with pip install 'wavetune[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    with _own_signals(), _muted():
        _connect(ray, address, workers)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "wavetune"}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except Exception as error:  # which types depends on what is at the address
            raise DeploymentError(f"no Ray cluster answers at {address} ({first_line(error)})") from error
        return
    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, workers),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    except Exception as error:  # a bare one where Ray's processes do not come up within the time it gives them
        raise DeploymentError(
            f"Ray does not start on this machine ({first_line(error)}); it may have too much to do, try again or "
            "train without --workers"
        ) from error


def _require_open(address: str) -> None:
    """Refuse at once an address where nothing listens, for which Ray would look for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address} is neither HOST:PORT nor auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise DeploymentError(f"no Ray cluster answers at {address} ({error})") from error


@contextmanager
def _muted() -> Iterator[None]:
    """Keep what Ray's own code writes beside Python off standard error: that it was told to be quiet."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray exchanges for its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(fleet: RayFleet) -> Iterator[str]:
    """Who the workers are. Raises ConfigError where one has other versions than this process, or no use of its GPU."""
    mine, workers = versions(), fleet.introductions()
    for number, (worker, clients) in enumerate(zip(workers, fleet.slices, strict=True)):
        for name, version in mine.items():
            if worker.versions.get(name) != version:
                raise ConfigError(
                    f"worker {number} on {worker.host} has {name} {worker.versions.get(name)}, this process has "
                    f"{version}; install the same versions on all machines"
                )
        who = f"client {clients[0]}" if len(clients) == 1 else f"clients {clients[0]} to {clients[-1]}"
        yield (
            f"worker {number}: {who} on {worker.host}, process {worker.process}, {worker.device}, {worker.threads} "
            + ("thread" if worker.threads == 1 else "threads")
        )
    if blind := [number for number, worker in enumerate(workers) if not worker.usable]:
        first = workers[blind[0]]
        raise ConfigError(
            f"Ray gave {first.device} of {first.host} to worker {blind[0]}, but PyTorch sees no CUDA device there; "
            "install PyTorch with CUDA and the GPU's driver on that machine, or give --device cpu"
        )
