"""A dataset under a prefix of an S3 bucket, or of anything that speaks S3 and honours `If-None-Match: *`.

`put_new` is a PUT with that header: 412 means the name is taken, 409 means another writer is at it (tried again). When
the reply is lost the outcome is unknown, and botocore's own retry then meets a 412 from the object that did land; so on
412 and on any failure after sending, the name is read back and compared with what was to be written.

`headrace doctor --storage` races processes on a store before anyone relies on it: some servers ignore the header.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from headrace.schemas.errors import ConfigError, MissingExtra, StorageError
from headrace.shards.store import Missing, check_name

#: Size of a part of a multipart upload; at most 10,000 parts make 160 GB an object.
PART_BYTES = 16 << 20
_CONFLICT_TRIES = 8
_LOCK = threading.Lock()
_SESSIONS: list[Any] = []

_WORDS = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "access denied: check the credentials and the bucket's policy",
    "403": "access denied: check the credentials and the bucket's policy",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the credentials have expired",
    "QuotaExceeded": "the storage quota is used up",
    "InsufficientStorage": "no space left in the store",
    "EntityTooLarge": "the object is larger than the store allows",
    "SlowDown": "the store asks for fewer requests",
    "NotImplemented": "the store does not know this request",
}


class S3Store:
    """`Store` over `bucket/prefix`."""

    def __init__(self, place: str, options: Mapping[str, Any]) -> None:
        """`place` is `bucket/prefix`. Raises: MissingExtra, ConfigError, StorageError if the bucket cannot be used."""
        bucket, _, prefix = place.partition("/")
        prefix = prefix.strip("/")
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.options: Mapping[str, Any] = dict(options)
        unknown = options.keys() - {"endpoint_url", "region", "anon", "key", "secret", "token"}
        if unknown or not bucket:
            raise ConfigError(f"unknown storage options {sorted(unknown)}" if unknown else "s3:// needs a bucket")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(options)
        with self._translated("open", ""):
            self._client.head_bucket(Bucket=bucket)

    def put_new(self, name: str, data: bytes) -> bool:
        key = self._key(name)
        digest = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

        def put() -> None:
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ContentMD5=digest, IfNoneMatch="*", ContentLength=len(data)
            )

        return self._exclusively(name, put, lambda: self.size(name) == len(data) and self.get(name) == data)

    def writer(self, name: str) -> S3Writer:
        check_name(name)
        return S3Writer(self, name)

    def get(self, name: str) -> bytes:
        with self._translated("read", name):
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read())

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._translated("read", name):
            found = self._client.get_object(
                Bucket=self._bucket, Key=self._key(name), Range=f"bytes={offset}-{offset + length - 1}"
            )
            data = bytes(found["Body"].read())
        if len(data) != length:
            short = length - len(data)
            raise StorageError(f"cannot read {self._show(name)}: it ends {short} bytes before byte {offset + length}")
        return data

    def size(self, name: str) -> int:
        with self._translated("read", name):
            return int(self._client.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"])

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except Missing:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        names = []
        with self._translated("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                names += [item["Key"][len(self._prefix) :] for item in page.get("Contents", [])]
        return iter(sorted(names))

    def delete(self, name: str) -> None:
        with self._translated("delete", name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def local_path(self, name: str) -> str | None:
        return None

    def leftovers(self) -> Iterator[tuple[str, str]]:
        with self._translated("list", ""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            found = [(u["Key"][len(self._prefix) :], u["UploadId"]) for p in pages for u in p.get("Uploads", [])]
        return iter(sorted(found))

    def drop_leftover(self, name: str, token: str) -> None:
        with self._translated("delete", name):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key(name), UploadId=token)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _show(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")

    def _exclusively(self, name: str, put: Any, is_ours: Any) -> bool:
        """Run a conditional request; True if this call (or an earlier one of the same content) created the name."""
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        for attempt in range(_CONFLICT_TRIES):
            try:
                put()
                return True
            except (ClientError, BotoCoreError) as exc:
                code, status = _code(exc)
                if code == "ConditionalRequestConflict" or status == 409:
                    time.sleep(0.05 * 2**attempt)
                    continue
                if status == 412 or status is None or status >= 500:  # taken, or no answer that can be trusted
                    try:
                        return bool(is_ours())
                    except Missing:
                        if status == 412:
                            continue  # deleted since: the name is free again
                    except StorageError:
                        pass  # it cannot be read either: the first error says more
                raise self._error("write", name, exc) from exc
        raise StorageError(f"cannot write {self._show(name)}: other writers keep the name busy")

    @contextmanager
    def _translated(self, action: str, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # type: ignore[import-untyped]

        try:
            yield
        except (ClientError, BotoCoreError, HTTPClientError) as exc:
            raise self._error(action, name, exc) from exc

    def _error(self, action: str, name: str, exc: Exception) -> StorageError:
        code, status = _code(exc)
        if code == "NoSuchKey" or (status == 404 and name and code != "NoSuchBucket"):
            return Missing(f"cannot {action} {self._show(name)}: it does not exist")
        if status == 416:
            return StorageError(f"cannot {action} {self._show(name)}: it ends before the range that was asked for")
        words = _WORDS.get("NoSuchBucket" if status == 404 else code, str(exc))
        return StorageError(f"cannot {action} {self._show(name)}: {words}")


class S3Writer:
    """`StoreWriter` that sends parts as they fill; what fits into one part is a single PUT."""

    def __init__(self, store: S3Store, name: str) -> None:
        self._store, self._name = store, name
        self._buffer = bytearray()
        self._written = 0
        self._upload = ""
        self._mark = secrets.token_hex(16)  # tells our object from another's when a reply is lost
        self._parts: list[dict[str, Any]] = []
        self._open = True

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._buffer += view
        self._written += len(view)
        while len(self._buffer) >= 2 * PART_BYTES:
            self._send(PART_BYTES)
        return len(view)

    def tell(self) -> int:
        return self._written

    def close(self) -> bool:
        try:
            if not self._upload:
                return self._store.put_new(self._name, bytes(self._buffer))
            while self._buffer:
                self._send(PART_BYTES)
            created = self._complete()
            if created:
                self._upload = ""
            return created
        finally:
            self.abort()

    def abort(self) -> None:
        self._open = False
        self._buffer.clear()
        upload, self._upload = self._upload, ""
        if upload:
            self._store.drop_leftover(self._name, upload)

    def _send(self, size: int) -> None:
        store, key = self._store, self._store._key(self._name)
        if not self._upload:
            with store._translated("write", self._name):
                begun = store._client.create_multipart_upload(
                    Bucket=store._bucket, Key=key, Metadata={"headrace-writer": self._mark}
                )
            self._upload = begun["UploadId"]
        part = bytes(self._buffer[:size])
        digest = b64encode(hashlib.md5(part, usedforsecurity=False).digest()).decode()
        number = len(self._parts) + 1
        with store._translated("write", self._name):
            sent = store._client.upload_part(
                Bucket=store._bucket, Key=key, UploadId=self._upload, PartNumber=number, Body=part, ContentMD5=digest
            )
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})
        del self._buffer[:size]

    def _complete(self) -> bool:
        store, key = self._store, self._store._key(self._name)

        def complete() -> None:
            store._client.complete_multipart_upload(
                Bucket=store._bucket,
                Key=key,
                UploadId=self._upload,
                MultipartUpload={"Parts": self._parts},
                IfNoneMatch="*",
            )

        def is_ours() -> bool:
            with store._translated("read", self._name):
                head = store._client.head_object(Bucket=store._bucket, Key=key)
            return bool(head["Metadata"].get("headrace-writer") == self._mark)

        return store._exclusively(self._name, complete, is_ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._open:
            self.close()
        else:
            self.abort()


def _client(options: Mapping[str, Any]) -> Any:
    try:
        import botocore.session  # type: ignore[import-untyped]
        from botocore import UNSIGNED
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError
    except ImportError as exc:
        raise MissingExtra("botocore", "s3", need="a dataset on S3") from exc
    config = Config(
        signature_version=UNSIGNED if options.get("anon") else None,
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=10,
        read_timeout=60,
        # Ceph and others refuse the checksum trailers that botocore adds by default; Content-MD5 is checked by all.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=32,
    )
    try:
        with _LOCK:  # making a client is not thread-safe, and a session reads its service files only once
            if not _SESSIONS:
                _SESSIONS.append(botocore.session.get_session())
            return _SESSIONS[0].create_client(
                "s3",
                endpoint_url=options.get("endpoint_url"),
                region_name=options.get("region"),
                aws_access_key_id=options.get("key"),
                aws_secret_access_key=options.get("secret"),
                aws_session_token=options.get("token"),
                config=config,
            )
    except (BotoCoreError, ValueError) as exc:
        raise ConfigError(f"the S3 client cannot be set up: {exc}", field="dataset") from exc


def _code(exc: Exception) -> tuple[str, int | None]:
    """(S3's error code, HTTP status or None if there was no answer)."""
    response = getattr(exc, "response", None)
    if not isinstance(response, dict):
        return type(exc).__name__, None
    return str(response.get("Error", {}).get("Code", "")), response.get("ResponseMetadata", {}).get("HTTPStatusCode")
