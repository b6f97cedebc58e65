"""The files of deploy/ say nothing that is not so: they parse, their commands exist, their metrics are exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from headrace.cli import app

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("slurm/*.sbatch"))
_COMMAND = re.compile(r"headrace (build|serve|join|doctor|fit|status|quarantine|streams)\b((?:[^\n;|&]|\\\n)*)")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
_METRIC = re.compile(r"\bheadrace_[a-z_]+\b")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_slurm_scripts_are_valid_bash_and_stop_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    assert "set -euo pipefail" in text
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", str(script)], check=True)
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert directives and text.index("#SBATCH") < text.index("set -euo"), "Slurm reads no directive behind a command"
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in directives)


def test_yaml_files_parse_without_duplicate_keys() -> None:
    files = sorted(DEPLOY.rglob("*.yaml"))
    assert len(files) >= 6
    for file in files:
        for document in yaml.load_all(file.read_text(), Loader=_Strict):
            assert isinstance(document, dict), file


def test_the_commands_of_deploy_exist_with_their_options() -> None:
    found = 0
    for file in [p for p in DEPLOY.rglob("*") if p.is_file() and p.suffix != ".json"]:
        for command, rest in _COMMAND.findall(file.read_text()):
            told = CliRunner().invoke(app, [command, "--help"])
            assert told.exit_code == 0, (file, command)
            for option in _OPTION.findall(rest):
                assert f"--{option}" in told.stdout, f"{file}: headrace {command} has no --{option}"
                found += 1
    assert found >= 10


def test_dashboard_and_alerts_name_metrics_that_are_exported() -> None:
    pytest.importorskip("prometheus_client")
    source = (Path(__file__).parents[2] / "ingest" / "status_metrics.py").read_text()
    books = re.findall(r'^    \("([a-z]+)", "', source, re.MULTILINE)
    exported = set(_METRIC.findall(source)) | {f"headrace_{word}" for word in books}
    dashboard = json.loads((DEPLOY / "compose/grafana/dashboards/headrace.json").read_text())
    rules = yaml.safe_load((DEPLOY / "compose/prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]] + [r["expr"] for r in rules]
    named = {name for expression in expressions for name in _METRIC.findall(expression)}
    bare = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in named}
    assert len(bare) >= 12
    assert bare <= exported, bare - exported
    assert all({"summary", "action"} <= set(rule["annotations"]) for rule in rules)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_pipelines_of_deploy_are_valid() -> None:
    from headrace.ingest.pipeline_file import parse_pipeline
    from headrace.ingest.resolve import resolve

    manifest = next(
        d for d in yaml.safe_load_all((DEPLOY / "kubernetes/service.yaml").read_text()) if d["kind"] == "ConfigMap"
    )
    for text in (manifest["data"]["pipeline.yaml"], (DEPLOY / "compose/pipeline.yaml").read_text()):
        resolve(parse_pipeline(text, base=DEPLOY), DEPLOY)


def test_the_unit_file_is_one(tmp_path: Path) -> None:
    unit = DEPLOY / "systemd/headrace.service"
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    text = unit.read_text().replace("/opt/headrace/bin/headrace", "/bin/true")
    (tmp_path / "headrace.service").write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "headrace.service")], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    complaints = [line for line in told.stderr.splitlines() if "headrace.service" in line]
    assert complaints == []


def test_containers_run_as_a_user_and_publish_on_loopback_only() -> None:
    recipe = (DEPLOY / "container/Containerfile").read_text()
    assert re.search(r"^USER headrace$", recipe, re.MULTILINE)
    assert recipe.index("USER headrace") < recipe.index("ENTRYPOINT")
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "image" in service, name


class _Strict(yaml.SafeLoader):
    pass


def _unique(loader: _Strict, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys} at {node.start_mark}"
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)
