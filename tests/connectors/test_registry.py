"""Connectors by name, by file and by module, and a helpful word for a name that does not exist."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import pytest

from headrace.connectors import registry
from headrace.connectors.contract import Connector
from headrace.connectors.files import Files
from headrace.connectors.registry import all_connectors, connector_class, describe_connectors, file_hash
from headrace.schemas.errors import ConfigError

TIDE = '''
from headrace.connectors.contract import Connector, ConnectorConfig, Item, Split

class Tide(Connector):
    """Levels of one gauge."""
    class Config(ConnectorConfig):
        host: str
    def splits(self):
        yield Split("gauge")
    def read(self, split, after):
        for n in range((after or 0) + 1, 4):
            yield Item(str(n).encode(), position=n)
'''


def test_the_builtin_name_gives_the_class() -> None:
    assert connector_class("files") is Files
    assert all_connectors()["files"] is Files


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `files`"):
        connector_class("file")


def test_a_class_comes_from_a_file_beside_the_pipeline(tmp_path: Path) -> None:
    (tmp_path / "tide.py").write_text(TIDE)
    cls = connector_class("./tide.py:Tide", tmp_path)
    assert issubclass(cls, Connector)
    assert connector_class("./tide.py:Tide", tmp_path) is cls, "one content is loaded once"
    (tmp_path / "tide.py").write_text(TIDE + "\n# changed\n")
    assert connector_class("./tide.py:Tide", tmp_path) is not cls
    reads = list(cls(cls.Config(host="h")).read(next(iter(cls(cls.Config(host="h")).splits())), 1))
    assert [read.position for read in reads] == [2, 3]


def test_a_class_comes_from_a_module() -> None:
    assert connector_class("headrace.connectors.files:Files") is Files


@pytest.mark.parametrize(
    "type_name", ["./absent.py:Tide", "no.such.module:Tide", "headrace.connectors.files:Nothing", "json:JSONDecoder"]
)
def test_what_cannot_be_loaded_is_a_configuration_error(type_name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        connector_class(type_name, tmp_path)


def test_the_hash_of_a_file_type_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "tide.py").write_text(TIDE)
    assert file_hash("./tide.py:Tide", tmp_path) == hashlib.sha256(TIDE.encode()).hexdigest()
    module = Path(registry.__file__).read_bytes()
    assert file_hash("headrace.connectors.registry:X") == hashlib.sha256(module).hexdigest()
    assert file_hash("files") is None
    for absent in ("./absent.py:X", "no.such.module:X"):
        with pytest.raises(ConfigError):
            file_hash(absent, tmp_path)


def test_a_broken_plug_in_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = importlib.metadata.EntryPoint("torn", "no_such_module_at_all:X", registry.GROUP)
    real = importlib.metadata.entry_points

    def entry_points(**kwargs: str) -> object:
        return (broken,) if kwargs.get("group") == registry.GROUP else real(**kwargs)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    told = {one.name: one for one in describe_connectors()}
    assert told["torn"].error and "no_such_module_at_all" in told["torn"].error
    assert told["files"].guarantee == "exactly once"
    assert told["files"].settings["properties"]["glob"]["description"]
    assert "root" in told["files"].example and told["files"].summary


def test_an_installed_package_registers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("other-files", "headrace.connectors.files:Files", registry.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kwargs: (entry,))
    assert connector_class("other-files") is Files
    names = list(all_connectors())
    assert (names[0], names[-1]) == ("files", "other-files")
