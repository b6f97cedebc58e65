"""docs/pipeline.schema.json is what the models say; it accepts the harbour and refuses what headrace refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.ingest.pipeline_schema import pipeline_json_schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    published = json.loads((ROOT / "docs" / "pipeline.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


def test_the_published_schema_is_what_the_models_say() -> None:
    published = json.loads((ROOT / "docs" / "pipeline.schema.json").read_text(encoding="utf-8"))
    assert published == json.loads(json.dumps(pipeline_json_schema())), (
        "run `headrace schema > docs/pipeline.schema.json`"
    )


def test_the_harbours_pipeline_is_valid(validator: Any) -> None:
    document = yaml.safe_load((ROOT / "examples" / "harbour" / "pipeline.yaml").read_text(encoding="utf-8"))
    assert [e.message for e in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    "stream",
    [
        {"source": {"type": "files"}, "record": {"type": "text"}},
        {"source": {"type": "files", "root": "x", "rot": 1}, "record": {"type": "text"}},
        {"source": {"type": "files", "root": "x"}, "record": {"type": "image", "max_side": "big"}},
        {"source": {"type": "files", "root": "x"}},
        {"source": {"type": "files", "root": "x"}, "record": {"type": "text"}, "licence": "MIT"},
    ],
)
def test_what_headrace_refuses_an_editor_marks(validator: Any, stream: dict[str, Any]) -> None:
    assert list(validator.iter_errors({"streams": {"a": stream}}))
