"""Starts a Ray of this machine, or joins one that runs.

One of this machine is only what runs actors: the control store, the raylet and its agents. By itself `ray.init` also
starts the dashboard's API server, a monitor that would ask a cloud for more nodes, and one that would carry the actors'
output here. Nobody looks at them, and a service waits for them whenever it starts: on two idle cores `ray.init` takes
2.0 s without and 4.4 s with them, and 7 s while another Ray has the agent's port. Ray has no settings for this, so two
of its classes are replaced while `ray.init` runs; a Ray that is built otherwise, or does not start so, starts as it
always did.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator
from typing import Any

from headrace.schemas.errors import HeadraceError, MissingExtra

_OBJECT_STORE_BYTES = 128 << 20  # payload never goes through it
_logger = logging.getLogger(__name__)

#: Parameters of a node and what they are here. The agent's port is any free one: by itself it is 52365, and while the
#: agent of another Ray holds that, of a service that was just killed for one, the raylet waits 5 s before it goes on.
_LEAN = {"no_monitor": True, "include_log_monitor": False, "dashboard_agent_listen_port": 0}


def ray_library() -> Any:
    """The module `ray`. Raises: MissingExtra."""
    try:
        import ray
    except ImportError as exc:
        raise MissingExtra("ray", "ray", need="--engine ray") from exc
    return ray


def start_ray(ray: Any, address: str | None, workers: int, **more: Any) -> None:
    """Start a Ray of this machine, or join the one at `address`. Raises: HeadraceError."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    common: dict[str, Any] = {**quiet, **more}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray runs actors at niceness 15: beside anything else on the machine they get a thirtieth of a core.
    os.environ.setdefault("RAY_worker_niceness", "0")
    own: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(workers, os.cpu_count() or 1),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    for tries_left in (2, 1, 0):
        try:
            if address:
                ray.init(address=address, **common)
            else:
                with lean() if tries_left else contextlib.nullcontext():
                    ray.init(**own, **common)
            return
        except Exception as exc:  # Ray says "timed out" and "not reachable" by plain exceptions of many kinds
            if address or not tries_left:
                what = f"the Ray cluster at {address} cannot be joined" if address else "Ray did not start here"
                raise HeadraceError(f"{what}: {exc}; `--engine inline` needs no Ray") from exc
            _logger.warning("Ray did not start in time (%s); trying again", type(exc).__name__)
            ray.shutdown()


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Inside, `ray.init` of a local Ray starts no process that a service does not need. For one thread at a time."""
    try:
        from ray._private import node, parameter

        whole_node: Any = node.Node
        whole_params: Any = parameter.RayParams
        known = inspect.signature(whole_params.__init__).parameters
        can = hasattr(whole_node, "start_api_server") and _LEAN.keys() <= known.keys()
    except (ImportError, AttributeError):
        can = False
    if not can:
        yield
        return

    class Params(whole_params):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, **_LEAN})

    class Node(whole_node):
        def start_api_server(self, *args: Any, **more: Any) -> None:
            """None: it would list modules for several seconds, to offer nothing."""
            self._webui_url = ""

    node.Node, parameter.RayParams = Node, Params
    try:
        yield
    finally:
        node.Node, parameter.RayParams = whole_node, whole_params
