"""Checks before a run: the settings against the dataset's, the sources against reality, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.ingest.resolve import ResolvedStream
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SettingsDiffer
from headrace.shards import entry as log


def check_settings(streams: dict[str, ResolvedStream], have: dict[str, log.StreamSettings]) -> None:
    """Refuse settings that differ from those the dataset was begun with. Raises: SettingsDiffer."""
    for stream in streams.values():
        for output in stream.outputs.values():
            known = have.get(output.name)
            if known is None:
                continue
            fingerprint = known.tokenizer
            if output.tokenizer is not None and output.fit_group is None:
                tokenizer = output.make_tokenizer(None)
                fingerprint = tokenizer.fingerprint if tokenizer else None
            if output.digest(fingerprint) == known.digest:
                continue
            where, was, now = next(
                _differences(known.detail, output.settings), ("tokenizer", known.tokenizer, fingerprint)
            )
            raise SettingsDiffer(
                f"the dataset holds this stream with `{where}` = {was!r}, the pipeline says {now!r}. A stream never"
                f" changes: give it a new name (`{stream.name}2`), or write to another dataset",
                field=f"streams.{stream.name}",
                value=now,
            )


def _differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            yield from _differences(was.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif canonical_json(was) != canonical_json(now):
        yield path, was, now


def source_to_tell(stream: ResolvedStream) -> dict[str, Any] | None:
    """How to open a source again, kept in the plan: for files only, since other sources' settings may hold secrets."""
    if stream.spec.source.type != "files" or "@" in str(stream.connector_config.root):
        return None
    told: dict[str, Any] = stream.connector_config.model_dump(mode="json", exclude={"storage_options"})
    return {"type": "files", **told}


def probe_sources(streams: dict[str, ResolvedStream]) -> None:
    """Ask every connector whether its source can be reached. Raises: ConfigError, SourceError."""
    for name, stream in streams.items():
        connector = stream.make_receiver() if stream.spooled else stream.make_connector()
        try:
            connector.probe()
        except ConfigError as exc:
            raise ConfigError(str(exc), field=f"streams.{name}.source") from exc
        finally:
            connector.close()
