"""Settings of `watch`: how a service knows that a file is whole, and which names are never data.

    settled   size and time of change stayed the same for so long; the default of folders and web servers
    marker    a second file says so: `a.tif` is whole when `a.tif.done` is there
    rename    whatever has a final name is whole: writers use another name until they are done
    (none)    objects are whole when they appear; the default of S3 and its kin

Names in progress are passed over under each rule.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.path_glob import PathGlob
from headrace.schemas.pipeline import run_field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = r"^\d+(\.\d+)?(ms|s|m|h)$"
DEFAULT_SETTLED = "5s"
#: File systems in which an object comes into being at once, with all its bytes.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci")

Rule = Literal["settled", "marker", "rename"]


class WatchConfig(ConnectorConfig):
    """When a file of a watched source is whole. At most one of `settled`, `marker` and `rename`."""

    settled: str | None = run_field(
        None, pattern=DURATION, description="whole when unchanged for so long, such as 5s: the default of folders"
    )
    marker: str | None = run_field(
        None,
        description="whole when this file lies beside it: {name}.done, {stem}.ok, or _SUCCESS for a whole folder",
    )
    rename: bool = run_field(False, description="whole as soon as it has a name that is not in progress")
    in_progress: tuple[str, ...] = run_field(
        (".*", "_*", "*.tmp", "*.part", "*.partial", "*.crdownload", "*~"),
        description="names of files and folders that are still being written, as globs; [] for none",
    )
    ordered_names: bool = run_field(
        False, description="s3:// only: each new name sorts behind all older ones, so only the end is listed"
    )
    recheck: str = run_field(
        "5m", pattern=DURATION, description="how often everything is listed and looked at anew, whatever is known"
    )

    @field_validator("in_progress", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("in_progress")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            PathGlob(pattern)
            if "/" in pattern:
                raise ValueError(f"`{pattern}`: a pattern of one name is expected, without /")
        return value

    @model_validator(mode="after")
    def _whole(self) -> WatchConfig:
        if (self.settled is not None) + (self.marker is not None) + self.rename > 1:
            raise ValueError("only one of `settled`, `marker` and `rename` can say when a file is whole")
        if self.marker is not None:
            bare = self.marker.replace("{name}", "").replace("{stem}", "")
            if not bare or "/" in bare or "{" in bare or "}" in bare:
                raise ValueError(
                    f"`{self.marker}`: the name of a file beside the data is expected, such as {{name}}.done, "
                    "{stem}.ok or _SUCCESS"
                )
        return self

    def rule(self, root: str) -> Rule:
        """How a file under this root is known to be whole."""
        if self.marker is not None:
            return "marker"
        if self.rename or (self.settled is None and root.split("://", 1)[0] in OBJECT_STORES):
            return "rename"
        return "settled"

    @property
    def settled_s(self) -> float:
        """Seconds that a file must stay unchanged."""
        return seconds(self.settled or DEFAULT_SETTLED)


def seconds(duration: str) -> float:
    """`5s`, `200ms`, `1.5m` or `2h` as seconds. Raises: ValueError for anything else."""
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise ValueError(f"`{duration}`: a time such as 5s, 200ms or 10m is expected")
    return float(found[1]) * _SECONDS[found[2]]
