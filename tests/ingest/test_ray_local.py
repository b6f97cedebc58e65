"""The Ray that a command starts: what runs actors, no nicer than it, with its token; as ever if built otherwise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .test_same_bytes import descendants

pytestmark = pytest.mark.ray

STARTED = """
import json, os, sys
import ray
from ray._private import node, parameter
before = node.Node, parameter.RayParams
if sys.argv[1] == "other":
    from headrace.ingest import ray_local
    ray_local._LEAN["a_setting_of_tomorrow"] = True
from headrace.ingest.ray_local import start_ray
start_ray(ray, None, 1)
assert (node.Node, parameter.RayParams) == before
answer = ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0)
print(json.dumps({"answer": answer, "pid": os.getpid(), "auth": os.environ.get("RAY_AUTH_MODE")}), flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.mark.parametrize("ray_is", ["this", "other"])
def test_a_ray_of_this_machine_is_only_what_runs_actors(ray_is: str) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-c", STARTED, ray_is]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("{"))
            told = json.loads(line)
            assert told == {"answer": 0, "pid": process.pid, "auth": "token"}
            assert descendants(process.pid, "gcs_server") and descendants(process.pid, "raylet")
            extra = [name for name in ("dashboard.py", "monitor.py") if descendants(process.pid, name)]
            assert extra == ([] if ray_is == "this" else ["dashboard.py", "monitor.py"])
        finally:
            process.stdin.close()
            process.wait(60)
    assert process.returncode == 0
