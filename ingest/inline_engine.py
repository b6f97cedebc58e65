"""The engine of one machine: supervisors in threads, each with its own child process, and the coordinator beside them.

The same children as under Ray, so the same bytes; it starts at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from headrace.ingest.child_process import ChildPool
from headrace.ingest.coordinator import Coordinator
from headrace.ingest.parts import Part
from headrace.ingest.supervisor import Supervisor

Watch = Callable[[dict[str, Any]], None]


def run_inline(
    runtime: dict[str, Any],
    *,
    workers: int,
    watch: Watch,
    fit_only: bool = False,
    sample_bytes: int | None = None,
    part: Part | None = None,
    fitted_in: str | None = None,
    reencode_only: bool = False,
    children: ChildPool | None = None,
) -> dict[str, Any]:
    """Run to the end and give back `Coordinator.finish`. `watch` gets the progress a few times a second.

    `children`: decoding processes that were started before; they stay the caller's.

    Raises: what the coordinator raises at its start; KeyboardInterrupt after the children were ended.
    """
    coordinator = Coordinator(
        runtime,
        fit_only=fit_only,
        sample_bytes=sample_bytes,
        part=part,
        fitted_in=fitted_in,
        reencode_only=reencode_only,
    )
    coordinator.start()
    if children is None:
        with ChildPool() as own:
            return _run(coordinator, runtime, workers, watch, own)
    return _run(coordinator, runtime, workers, watch, children)


def _run(
    coordinator: Coordinator, runtime: dict[str, Any], workers: int, watch: Watch, children: ChildPool
) -> dict[str, Any]:
    failures: list[BaseException] = []
    supervisors = [Supervisor(f"w{i}", coordinator, runtime, children) for i in range(workers)]

    def work(supervisor: Supervisor) -> None:
        try:
            supervisor.run()
        except BaseException as exc:
            failures.append(exc)
            coordinator.stop()

    threads = [threading.Thread(target=work, args=(s,), name=s.worker, daemon=True) for s in supervisors]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.2 / len(threads))
            watch(coordinator.progress())
    except BaseException:
        coordinator.stop()
        for supervisor in supervisors:
            supervisor.stop()
        for thread in threads:
            thread.join(10)
        coordinator.finish()
        raise
    if failures:
        coordinator.finish()
        raise failures[0]
    watch(coordinator.progress())
    return coordinator.finish()
