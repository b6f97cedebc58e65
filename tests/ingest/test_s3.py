"""From a bucket into a bucket: the same content as from disk to disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import write_lines

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[dict[str, str], Any]]:
    """The environment of clients of an S3 server on loopback, and a client; there is a bucket `corpus`."""
    moto = pytest.importorskip("moto.server")
    boto = pytest.importorskip("botocore.session")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto.Session().create_client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="corpus")
    yield env, client
    server.stop()


def headrace(env: dict[str, str], *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *arguments, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_a_build_from_and_to_s3_equals_one_on_disk(s3: tuple[dict[str, str], Any], tmp_path: Path) -> None:
    env, client = s3
    write_lines(tmp_path / "in", files=3, lines=40)
    for path in sorted((tmp_path / "in").iterdir()):
        client.put_object(Bucket="corpus", Key=f"raw/{path.name}", Body=path.read_bytes())
    settings = "\n    record: {type: text, lines: each}\n    tokenizer: {type: sentencepiece, vocab_size: 300}\n"
    (tmp_path / "s3.yaml").write_text(f"streams:\n  t:\n    source: {{type: files, root: 's3://corpus/raw'}}{settings}")
    (tmp_path / "disk.yaml").write_text(f"streams:\n  t:\n    source: {{type: files, root: in}}{settings}")
    headrace(env, "build", str(tmp_path / "s3.yaml"), "--out", "s3://corpus/out", "--workers", "2")
    headrace(env, "build", str(tmp_path / "disk.yaml"), "--out", str(tmp_path / "out"), "--workers", "1")
    remote, local = headrace(env, "verify", "s3://corpus/out"), headrace(env, "verify", str(tmp_path / "out"))
    assert remote["ok"] and local["ok"]
    assert remote["samples"] == local["samples"] == 120
    assert remote["content_digest"] == local["content_digest"]
