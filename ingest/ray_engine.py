"""The engine on Ray: thin actors around the plain coordinator and supervisors. Only the files `ray_*` import Ray.

Ray places, restarts and tells of deaths; what it carries are tasks and manifests of a few kilobytes. A worker that dies
is restarted and its tasks are given out again; nothing it had not committed counts.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from headrace.ingest.coordinator import Coordinator
from headrace.ingest.inline_engine import Watch
from headrace.ingest.ray_local import ray_library, start_ray
from headrace.ingest.supervisor import Supervisor
from headrace.schemas.errors import HeadraceError

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

    def run(self, name: str, coordinator: Any, runtime: dict[str, Any]) -> None:
        """Work until nothing is left."""
        Supervisor(name, _CoordinatorProxy(coordinator), runtime).run()


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
        coordinator = ray.remote(num_cpus=0, max_concurrency=8)(Coordinator).remote(runtime, fit_only=fit_only)
        _get(ray, coordinator.start.remote())
        worker_class = ray.remote(num_cpus=1, max_restarts=-1)(_Worker)
        actors = {f"w{i}": worker_class.remote() for i in range(workers)}
        _drive(ray, coordinator, actors, runtime, watch)
        watch(ray.get(coordinator.progress.remote()))
        summary: dict[str, Any] = ray.get(coordinator.finish.remote())
        return summary
    finally:
        if mine:
            ray.shutdown()


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
