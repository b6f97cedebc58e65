"""A service on Ray: a named, detached coordinator, and workers on every core of every node.

All of it outlives the process that started it, where Ray does. The coordinator's actor begins by claiming the dataset,
so one that Ray restarted is simply the next writer; a worker's actor begins its supervisors by itself and looks for the
coordinator by name. Nothing rests on a call that arrives, or on an actor being the only one. What an actor needs is
imported in its own process only: every process that is started is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.ingest.ray_local import ray_library, start_ray
from headrace.schemas.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.ingest.status_server import StatusServer

_NAMESPACE = "headrace"
_LOOK_S = 0.5
_TRY_S = 0.1  #: between two tries of a worker to reach the coordinator
_NAME_TRIES = 40
_HEAD = "node:__internal_head__"  #: a resource that only the head node has
_PATIENCE_S = 180.0  #: how long a worker tries to reach a coordinator that Ray may be restarting
_DRAIN_S = 60.0
_logger = logging.getLogger(__name__)


def service_name(dataset: str) -> str:
    """The name of the coordinator's actor: one dataset, one service."""
    return f"service-{hashlib.sha256(dataset.encode()).hexdigest()[:16]}"


class _ServiceActor:
    """The coordinator. A start that fails is told to whoever asks, not thrown at Ray."""

    def __init__(self, runtime: dict[str, Any], status: dict[str, Any] | None, take_over: bool) -> None:
        import ray

        from headrace.ingest.service import Service
        from headrace.ingest.service_view import View
        from headrace.ingest.status_server import StatusServer

        self._failed: HeadraceError | None = None
        self._status: StatusServer | None = None
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        try:
            self._service = Service(runtime, engine="ray")
            if status is not None:
                base = Path(runtime["base"])
                view = View(self._service, runtime["dataset"], base)
                self._status = StatusServer(view, status["host"], status["port"], status["token"], base=base)
                self._status.start()
            self._service.start(self._status.url if self._status else None, take_over=take_over or restarted)
        except HeadraceError as exc:
            self._failed = exc

    def begun(self) -> str | None:
        """The address of the status page. Raises: what the start raised."""
        if self._failed is not None:
            raise self._failed
        return self._status.url if self._status else None

    def call(self, method: str, *args: Any) -> Any:
        """A method of the service."""
        if self._failed is not None:
            raise self._failed
        return getattr(self._service, method)(*args)

    def state(self) -> str:
        """The service's state."""
        return self._service.state if self._failed is None else "stopped"

    def finish(self) -> dict[str, Any]:
        """End the epoch; the page goes with it."""
        told = self._service.finish()
        if self._status is not None:
            self._status.stop()
        return told


class _Proxy:
    """What a supervisor sees of the coordinator: found by name, and asked again while Ray restarts it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        return lambda *args: self._call(method, *args)

    def report(self, *args: Any) -> None:
        """Fire and forget: progress may be lost."""
        import ray

        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            ray.get_actor(self._name, _NAMESPACE).call.remote("report", *args)

    def _call(self, method: str, *args: Any) -> Any:
        import ray

        began = time.monotonic()
        while True:
            try:
                return ray.get(ray.get_actor(self._name, _NAMESPACE).call.remote(method, *args))
            except (ValueError, ray.exceptions.RayActorError, ray.exceptions.ActorUnavailableError) as exc:
                # An answer that was lost is no answer: a commit that stands is refused as stale, and the child begins
                # anew from the log.
                if time.monotonic() - began > _PATIENCE_S:
                    raise HeadraceError(f"the coordinator {self._name} cannot be reached: {exc}") from exc
                time.sleep(_TRY_S)


class _WorkerActor:
    """One worker: its supervisors begin with it, also when Ray restarts it."""

    def __init__(self, name: str, coordinator: str, runtime: dict[str, Any], receives: bool) -> None:
        from headrace.ingest.supervisor import PARTS, Supervisor

        parts = [part for part in PARTS if receives or part != "receive"]
        proxy = _Proxy(coordinator)
        with contextlib.suppress(HeadraceError):
            proxy.release(name)
        self._supervisors = [Supervisor(f"{name}/{part}", proxy, runtime) for part in parts]
        self._threads = [threading.Thread(target=s.run, name=s.worker, daemon=True) for s in self._supervisors]
        for thread in self._threads:
            thread.start()

    def alive(self) -> int:
        """How many of its supervisors are at work."""
        return sum(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End its processes."""
        for supervisor in self._supervisors:
            supervisor.stop()
        for thread in self._threads:
            thread.join(5)


class RayService:
    """Starts a service on Ray and watches it until told to drain."""

    def __init__(
        self, runtime: dict[str, Any], *, workers: int | None, address: str | None, status: dict[str, Any] | None
    ) -> None:
        self._runtime = runtime
        self._wanted = workers
        self._address = address
        self._page = status
        self._name = service_name(runtime["dataset"])
        self._workers: list[Any] = []
        self._mine = False
        self._coordinator: Any = None

    def start(self, *, take_over: bool = False, joined: Callable[[], None] = lambda: None) -> str | None:
        """Begin; gives back the page's address. `joined` is called when Ray is there. Raises as `Service.start`."""
        ray = ray_library()
        self._mine = not ray.is_initialized()
        if self._mine:
            with contextlib.redirect_stdout(sys.stderr):
                start_ray(ray, self._address, self._wanted or 1, namespace=_NAMESPACE)
        joined()
        old = self._existing(ray)
        if old is not None:
            if not take_over and _state_of(ray, old) in ("starting", "running"):
                raise HeadraceError("a service of this dataset runs on this Ray cluster; take over with --take-over")
            ray.kill(old)
        self._end_workers_before(ray)
        lasting: dict[str, Any] = {"lifetime": "detached", "namespace": _NAMESPACE, "max_restarts": -1}
        self._coordinator = (
            ray.remote(_ServiceActor)
            .options(name=self._name, num_cpus=0, max_concurrency=64, resources=_head(ray), **lasting)
            .remote(self._runtime, self._page, take_over)
        )
        self._make_workers(ray, lasting)
        try:
            url: str | None = _get(ray, self._coordinator.begun.remote())
        except HeadraceError:
            for actor in (*self._workers, self._coordinator):
                ray.kill(actor)
            raise
        return url

    def _make_workers(self, ray: Any, lasting: dict[str, Any]) -> None:
        """Begin them beside the coordinator, which each of them looks for and waits for."""
        count = self._wanted or max(1, int(ray.cluster_resources().get("CPU", 1)))
        for i in range(count):
            name = f"{self._name}-w{i}"
            actor = ray.remote(_WorkerActor).options(
                name=name, num_cpus=1, max_concurrency=2, scheduling_strategy="SPREAD", get_if_exists=False, **lasting
            )
            make = functools.partial(actor.remote, f"w{i}", self._name, self._runtime, i == 0)
            self._workers.append(_made(make))

    def wait(self, stopping: Callable[[], bool]) -> dict[str, Any]:
        """Run until `stopping` says so or another writer takes over; gives back `Service.finish`."""
        ray = ray_library()
        drained: float | None = None
        while True:
            time.sleep(_LOOK_S)
            try:
                if stopping() and drained is None:
                    ray.get(self._coordinator.call.remote("drain"))
                    drained = time.monotonic()
                if ray.get(self._coordinator.state.remote()) in ("fenced", "stopped"):
                    break
                if drained is not None:
                    busy = ray.get([worker.alive.remote() for worker in self._workers], timeout=10)
                    if not any(busy) or time.monotonic() - drained > _DRAIN_S:
                        break
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as exc:
                _logger.warning("a part of the service is being restarted: %s", type(exc).__name__)
        told: dict[str, Any] = ray.get(self._coordinator.finish.remote())
        self._end(ray)
        return told

    def status(self) -> dict[str, Any]:
        """As `Service.status`."""
        found: dict[str, Any] = ray_library().get(self._coordinator.call.remote("status"))
        return found

    def _end_workers_before(self, ray: Any) -> None:
        """Workers of a service that lost its command hold another pipeline, and the names of ours."""
        for i in itertools.count():
            try:
                ray.kill(ray.get_actor(f"{self._name}-w{i}", _NAMESPACE))
            except ValueError:
                return

    def _end(self, ray: Any) -> None:
        for worker in self._workers:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(worker.stop.remote(), timeout=15)
            ray.kill(worker)
        ray.kill(self._coordinator)
        if self._mine:
            ray.shutdown()

    def _existing(self, ray: Any) -> Any:
        try:
            return ray.get_actor(self._name, _NAMESPACE)
        except ValueError:
            return None


def _head(ray: Any) -> dict[str, float]:
    """What places an actor on the head node, without which Ray is nothing: so that no other one stops all commits.

    Ray takes some 18 s to find out that a node is gone, and only then it starts anew what ran there.
    """
    return {_HEAD: 0.001} if _HEAD in ray.cluster_resources() else {}


def _state_of(ray: Any, coordinator: Any) -> str:
    """Its state; "starting" while Ray restarts it."""
    try:
        return str(ray.get(coordinator.state.remote(), timeout=30))
    except ray.exceptions.RayError:
        return "starting"


def _made(make: Callable[[], Any]) -> Any:
    """An actor; a name is free only some time after its actor was killed."""
    for _ in range(_NAME_TRIES):
        try:
            return make()
        except ValueError:  # ActorAlreadyExistsError is one
            time.sleep(_LOOK_S)
    return make()


def _get(ray: Any, ref: Any) -> Any:
    """ray.get that raises our own errors as they are, not wrapped."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as exc:
        cause = getattr(exc, "cause", None)
        if isinstance(cause, HeadraceError):
            raise cause from None
        raise
