"""Settings of the connector `files`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.file_groups import Rule
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.watch_config import WatchConfig
from headrace.schemas.pipeline import bytes_field, run_field
from headrace.schemas.record import Modality


class FilesConfig(ConnectorConfig):
    """Settings of the connector `files`."""

    root: str = run_field(description="a folder or file, or a URL: s3://bucket/prefix, https://host/folder, memory://…")
    urls: tuple[str, ...] = run_field(
        (), repr=False, description="http(s) only: the files, relative to the root or whole URLs below it"
    )
    glob: tuple[str, ...] = bytes_field(
        ("**/*",), description="files to read; ** is any folders, * and ? stay in one name, {a,b} is either"
    )
    exclude: tuple[str, ...] = bytes_field((), description="files to leave out, as globs")
    select: Modality | Literal["none"] | None = bytes_field(
        None, description="only files, and members of archives, of this modality; none: those that no format claims"
    )
    group: Rule = bytes_field(
        "none", description="which files make one item: safe, stac, stem, webdataset (inside tar), none"
    )
    divide_bytes: int | None = bytes_field(
        None,
        ge=1 << 10,
        description="line files, rasters and videos above this many bytes are divided; default: rasters and videos"
        " above 256 MiB, line files into up to 16 even parts of 4 to 64 MiB, and beyond that into parts of 64 MiB",
    )
    lines: Literal["batches", "whole"] = bytes_field(
        "batches", description="JSON Lines as batches of lines, or as whole files for readers that look across lines"
    )
    max_line_bytes: int = bytes_field(64 << 20, ge=1, description="a longer line is refused")
    max_object_bytes: int = bytes_field(4 << 30, ge=1, description="an object that decompresses to more is refused")
    max_ratio: int = bytes_field(
        1000, ge=1, description="decompressed / compressed bytes beyond 64 MiB; more is refused as a bomb"
    )
    follow_symlinks: bool = bytes_field(False, description="follow symbolic links that stay inside the root")
    endpoint_url: str | None = run_field(None, description="s3:// only: the address of an S3-compatible server")
    storage_options: dict[str, Any] = run_field(
        {}, description="handed to fsspec: credentials, region, anon …", repr=False
    )
    timeout_s: float = run_field(60, gt=0, description="http(s) only: longest silence of a server, in seconds")
    watch: WatchConfig | None = run_field(
        None, description="in a service: when a file that appears is whole, and which names are never data"
    )

    @field_validator("glob", "exclude", "urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("glob", "exclude")
    @classmethod
    def _globs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            PathGlob(pattern)
        return value

    @model_validator(mode="after")
    def _whole(self) -> FilesConfig:
        web = self.root.startswith(("http://", "https://"))
        if not self.root:
            raise ValueError("root is empty: a folder, a file or a URL is expected")
        if "::" in self.root:
            raise ValueError("chained URLs (a::b) are not read; archives are opened by themselves")
        if web and not self.urls:
            raise ValueError("a web server has no listing: name the files in `urls`")
        if self.urls and not web:
            raise ValueError("`urls` goes with an http(s) root; use `glob`")
        if self.endpoint_url is not None and not self.root.startswith(("s3://", "s3a://")):
            raise ValueError("`endpoint_url` goes with an s3:// root")
        if self.watch is not None and self.watch.ordered_names and not self.root.startswith(("s3://", "s3a://")):
            raise ValueError("`watch.ordered_names` goes with an s3:// root")
        return self
