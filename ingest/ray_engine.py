"""The engine on Ray: thin actors around the plain coordinator and supervisors. Only the files `ray_*` import Ray.

Ray places, restarts and tells of deaths; what it carries are tasks and manifests of a few kilobytes. A worker that dies
is restarted and its tasks are given out again; nothing it had not committed counts.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from headrace.ingest.child_process import ChildPool
from headrace.ingest.ray_local import ray_library, start_ray
from headrace.ingest.supervisor import Supervisor
from headrace.schemas.errors import HeadraceError

if TYPE_CHECKING:  # every worker imports this file
    from headrace.ingest.inline_engine import Watch

_POLL_S = 0.2


class _CoordinatorProxy:
    """What a supervisor sees of the coordinator actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        return lambda *args: ray_library().get(method.remote(*args))

    def report(self, *args: Any) -> None:
        """Fire and forget: progress may be lost."""
        self._actor.report.remote(*args)


class _Worker:
    """The body of a worker actor."""

    def __init__(self, warm: bool) -> None:
        self._children = ChildPool()
        if warm:
            self._children.warm()

    def run(self, name: str, coordinator: Any, runtime: dict[str, Any]) -> None:
        """Work until nothing is left."""
        try:
            Supervisor(name, _CoordinatorProxy(coordinator), runtime, self._children).run()
        finally:
            self._children.close()


def run_ray(
    runtime: dict[str, Any], *, workers: int, watch: Watch, address: str | None = None, fit_only: bool = False
) -> dict[str, Any]:
    """Run to the end and give back `Coordinator.finish`. Starts a Ray of this machine, or joins the one at `address`.

    Raises: what the coordinator raises at its start.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints of deaths on stdout, which belongs to the summary
        return _run(ray_library(), runtime, workers, watch, address, fit_only)


def _run(
    ray: Any, runtime: dict[str, Any], workers: int, watch: Watch, address: str | None, fit_only: bool
) -> dict[str, Any]:
    mine = not ray.is_initialized()
    if mine:
        start_ray(ray, address, workers)
    try:
        # max_concurrency: `report` and `progress` must not wait for a commit; the coordinator has its own lock.
        coordinator = ray.remote(num_cpus=0, max_concurrency=8)(_coordinator_class()).remote(runtime, fit_only=fit_only)
        started = coordinator.start.remote()
        # Workers come up while the coordinator plans. One has a decoding process ready: there is one task at first.
        worker_class = ray.remote(num_cpus=1, max_restarts=-1)(_Worker)
        actors = {f"w{i}": worker_class.remote(i == 0) for i in range(workers)}
        _get(ray, started)
        _drive(ray, coordinator, actors, runtime, watch)
        watch(ray.get(coordinator.progress.remote()))
        summary: dict[str, Any] = ray.get(coordinator.finish.remote())
        return summary
    finally:
        if mine:
            ray.shutdown()


def _coordinator_class() -> type:
    from headrace.ingest.coordinator import Coordinator

    class Coordinating(Coordinator):
        """The coordinator in a process of its own."""

        def __init__(self, runtime: dict[str, Any], *, fit_only: bool) -> None:
            from headrace.ingest.without_pandas import all_built_in, leave_pandas_out

            super().__init__(runtime, fit_only=fit_only)
            if all_built_in(self._runtime.pipeline):
                leave_pandas_out()

    return Coordinating


def nodes_of(address: str | None) -> tuple[int, int]:
    """Nodes and cores of a Ray that is started for the question, or of the one at `address`. Raises: HeadraceError."""
    ray = ray_library()
    with contextlib.redirect_stdout(sys.stderr):
        start_ray(ray, address, 1)
        try:
            return len(ray.nodes()), int(ray.cluster_resources().get("CPU", 0))
        finally:
            ray.shutdown()


def _drive(ray: Any, coordinator: Any, actors: dict[str, Any], runtime: dict[str, Any], watch: Watch) -> None:
    """Keep every worker running until it says that nothing is left; a worker that died starts again."""
    running = {actor.run.remote(name, coordinator, runtime): name for name, actor in actors.items()}
    failed: HeadraceError | None = None
    while running:
        done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
        for ref in done:
            name = running.pop(ref)
            try:
                ray.get(ref)
            except (
                ray.exceptions.RayActorError,
                ray.exceptions.ActorUnavailableError,
                ray.exceptions.WorkerCrashedError,
            ):
                ray.get(coordinator.release.remote(name))
                time.sleep(_POLL_S)
                running[actors[name].run.remote(name, coordinator, runtime)] = name
            except ray.exceptions.RayTaskError as exc:
                ray.get(coordinator.stop.remote())
                failed = failed or HeadraceError(f"worker {name}: {exc.cause if hasattr(exc, 'cause') else exc}")
        watch(ray.get(coordinator.progress.remote()))
    if failed is not None:
        raise failed


def _get(ray: Any, ref: Any) -> Any:
    """ray.get that raises our own errors as they are, not wrapped."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as exc:
        cause = getattr(exc, "cause", None)
        if isinstance(cause, HeadraceError):
            raise cause from None
        raise
