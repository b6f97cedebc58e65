"""The JSON Schema of pipeline files, for editors: the pipeline's models with the settings of every built-in type.

Types of other packages are allowed with any settings; headrace checks those when it resolves the pipeline.
"""

from __future__ import annotations

from typing import Any

from headrace.connectors.registry import BUILTIN as CONNECTORS
from headrace.connectors.registry import connector_class
from headrace.ingest.normalizers.registry import BUILTIN as NORMALIZERS
from headrace.ingest.normalizers.registry import normalizer_class
from headrace.schemas.pipeline import Fit, Pipeline
from headrace.tokenizers.registry import BUILTIN as TOKENIZERS
from headrace.tokenizers.registry import tokenizer_class

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def pipeline_json_schema() -> dict[str, Any]:
    """The schema as a plain mapping, the same on every machine."""
    schema = Pipeline.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    definitions.pop("Section", None)
    fit = Fit.model_json_schema()
    for kind, known, finder in (
        ("source", CONNECTORS, connector_class),
        ("record", NORMALIZERS, normalizer_class),
        ("tokenizer", TOKENIZERS, tokenizer_class),
    ):
        options = []
        for name in sorted(known):
            settings: dict[str, Any] = finder(name).Config.model_json_schema(
                ref_template=f"#/$defs/{kind}.{name}.{{model}}"
            )
            for inner, definition in settings.pop("$defs", {}).items():
                definitions[f"{kind}.{name}.{inner}"] = definition
            properties = {field: _lenient(info) for field, info in settings.get("properties", {}).items()}
            settings["properties"] = {"type": {"const": name}, **properties}
            if kind == "tokenizer":
                settings["properties"]["fit"] = fit
            settings["required"] = ["type", *settings.get("required", [])]
            settings["title"] = f"{kind}: {name}"
            options.append(settings)
        if kind == "tokenizer":
            options.append({"title": "tokenizer: raw", "properties": {"type": {"const": "raw"}}, "required": ["type"]})
        options.append(
            {
                "title": f"{kind}: a class of one's own, or of another package",
                "properties": {"type": {"type": "string", "not": {"enum": [*sorted(known), "raw"]}}},
                "required": ["type"],
            }
        )
        definitions[kind] = {"type": "object", "oneOf": options}
    stream = definitions["Stream"]["properties"]
    stream["source"] = {"$ref": "#/$defs/source"}
    stream["record"] = {"$ref": "#/$defs/record"}
    by_modality = {
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/tokenizer"},
        "not": {"required": ["type"]},
    }
    stream["tokenizer"] = {"anyOf": [{"$ref": "#/$defs/tokenizer"}, by_modality, {"type": "null"}]}
    return {"$schema": _DIALECT, "title": "headrace pipeline", **{k: v for k, v in schema.items() if k != "title"}}


def _lenient(info: dict[str, Any]) -> dict[str, Any]:
    """A list of strings may also be written as one string (`glob: "*.jsonl"`)."""
    if info.get("type") != "array" or info.get("items") != {"type": "string"}:
        return info
    rest = {key: value for key, value in info.items() if key not in ("type", "items")}
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], **rest}
