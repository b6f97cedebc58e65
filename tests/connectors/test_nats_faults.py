"""NATS JetStream when servers die, networks break, many read at once, and passwords are wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Idle, Item, Read, Split
from headrace.connectors.nats_jetstream import NatsJetStream
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from ..servers.nats import Admin, NatsServer
from ..servers.proxy import TcpProxy
from ..servers.redis import make_certificates
from .test_nats import data, only, source, until_idle

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def admin(server: NatsServer) -> Iterator[Admin]:
    with closing(server.admin()) as admin:
        yield admin


# -- servers that die, networks that break ----------------------------------------------------------------------------


def read_on(connector: Connector, split: Split, wanted: int, sabotage: Any = None) -> list[Read]:
    """Reads as the engine does: after an error a pause, then again from the last position; fails after 30 s."""
    out: list[Read] = []
    after, deadline = None, time.monotonic() + 30
    while len(out) < wanted:
        assert time.monotonic() < deadline, f"{len(out)} of {wanted} reads came"
        try:
            for read in connector.read(split, after):
                if not isinstance(read, Idle):
                    out.append(read)
                    after = read.position
                    if sabotage is not None:
                        sabotage(len(out))
                if len(out) == wanted or time.monotonic() > deadline:
                    break
        except SourceChanged:
            raise
        except SourceError:
            time.sleep(0.05)
    return out


def test_a_server_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(
    server: NatsServer, admin: Admin
) -> None:
    wanted = [b"%d" % n for n in range(2000)]
    admin.create("S", "s.>")
    admin.publish_all("s.x", wanted[:1000])

    def sabotage(count: int) -> None:
        if count in (300, 1000, 1500):
            server.restart()
        if count == 1000:
            with closing(server.admin()) as again:
                again.publish_all("s.x", wanted[1000:])

    with closing(source(server)) as connector:
        reads = read_on(connector, only(connector), 2000, sabotage)
    assert data(reads) == wanted
    assert len(reads) == 2000


def test_cut_and_half_answered_connections_lose_and_double_nothing(server: NatsServer, admin: Admin) -> None:
    wanted = [b"%d" % n * 50 for n in range(1500)]
    admin.create("S", "s.>")
    admin.publish_all("s.x", wanted)
    with TcpProxy(server.port) as proxy, closing(source(server, port=proxy.port)) as connector:

        def sabotage(count: int) -> None:
            if count % 100 == 0:
                [proxy.cut, proxy.drop_next_reply, lambda: proxy.cut_after(10_000)][count // 100 % 3]()

        assert data(read_on(connector, only(connector), 1500, sabotage)) == wanted
        assert proxy.accepted >= 6


def test_a_half_open_connection_is_noticed_within_the_timeout(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    admin.publish("s.x", b"1")
    with TcpProxy(server.port) as proxy, closing(source(server, port=proxy.port, timeout_s=1)) as connector:
        split = only(connector)
        reads = connector.read(split, None)
        assert isinstance(next(reads), Item)
        proxy.freeze()
        begun = time.monotonic()
        with pytest.raises(SourceError, match="within 1 s"):
            for _ in reads:
                pass
        assert time.monotonic() - begun < 4
        proxy.thaw()
        assert data(until_idle(connector, split)) == [b"1"]


def test_a_consumer_that_the_server_took_away_is_replaced(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    admin.publish_all("s.x", [b"%d" % n for n in range(10)])
    with closing(source(server, batch=4)) as connector:
        reads = connector.read(only(connector), None)
        out = [next(reads).position for _ in range(6)]  # type: ignore[union-attr]
        for consumer in admin.ask("CONSUMER.LIST.S")["consumers"]:
            admin.ask(f"CONSUMER.DELETE.S.{consumer['name']}")
        out += [next(reads).position for _ in range(4)]  # type: ignore[union-attr]
        assert out == list(range(1, 11))
        reads.close()  # type: ignore[attr-defined]


def test_a_server_that_is_away_is_named_and_another_of_the_list_is_taken(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    with TcpProxy(server.port) as proxy:
        proxy.refuse()
        with (
            closing(source(server, port=proxy.port)) as connector,
            pytest.raises(SourceError, match=f"no NATS server can be reached.*{proxy.port}"),
        ):
            connector.probe()
        urls = (f"nats://127.0.0.1:{proxy.port}", server.url)
        with closing(NatsJetStream(NatsJetStream.Config(urls=urls, stream="S"))) as connector:
            connector.probe()


def test_closing_wakes_readers_and_leaves_no_thread(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    connector = source(server, idle_s=0.5)
    split, threads_before, raised = only(connector), threading.active_count(), []

    def reader() -> None:
        try:
            for _ in connector.read(split, None):
                pass
        except SourceError as exc:
            raised.append(exc)

    threads = [threading.Thread(target=reader) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    connector.close()
    for thread in threads:
        thread.join(3)
    assert len(raised) == 5
    assert threading.active_count() == threads_before


def test_a_hundred_splits_are_read_at_once_by_one_connector(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    for n in range(1000):
        admin.publish(f"s.{n % 100}", b"%d" % n)
    found: dict[str, list[bytes]] = {}
    with closing(source(server, subjects=[f"s.{n}" for n in range(100)])) as connector:

        def reader(split: Split) -> None:
            found[split.id] = data(read_on(connector, split, 10))

        threads = [threading.Thread(target=reader, args=(split,)) for split in connector.splits()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
    assert found == {f"S:s.{s}": [b"%d" % n for n in range(s, 1000, 100)] for s in range(100)}


# -- credentials ------------------------------------------------------------------------------------------------------


def test_passwords_and_tokens_are_checked_and_never_shown() -> None:
    for config, right, wrong in (
        ("authorization { user: me, password: sesame }", {"user": "me", "password": "sesame"}, {"user": "me"}),
        ("authorization { token: sesame }", {"token": "sesame"}, {"token": "wrong"}),
    ):
        hello = {"auth_token": "sesame"} if "token" in right else {"user": "me", "pass": "sesame"}
        with NatsServer(config) as guarded:
            guarded.admin(**hello).create("S", "s.>")
            with closing(source(guarded, **right)) as connector:
                connector.probe()
                shown = repr(connector.config) + connector.describe() + repr(connector.config.login())
                assert "sesame" not in shown + connector.config.model_dump_json()
            for bad in (wrong, {}):
                with closing(source(guarded, **bad)) as connector, pytest.raises(ConfigError, match="Set `user`"):
                    connector.probe()
    with pytest.raises(ValueError, match="without a user is expected"):
        NatsJetStream.Config(urls="nats://me:sesame@127.0.0.1", stream="S")


def test_a_user_who_may_not_read_is_told_what_is_needed() -> None:
    config = 'authorization { users: [ { user: me, password: pw, permissions: { publish: ["s.>"] } } ] }'
    with (
        NatsServer(config) as guarded,
        closing(source(guarded, user="me", password="pw")) as connector,
        pytest.raises(ConfigError, match=r"Permissions Violation.*STREAM\.INFO"),
    ):
        connector.probe()


def test_a_server_without_jetstream_says_so() -> None:
    with (
        NatsServer(jetstream=False) as plain,
        closing(source(plain)) as connector,
        pytest.raises((SourceError, ConfigError), match="JetStream"),
    ):
        connector.probe()


def test_tls_is_verified() -> None:
    with NatsServer() as plain:
        folder = plain.folder
        ca, certificate, key = make_certificates(folder)
        config = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
        with NatsServer(config, scheme="tls") as secret:
            with closing(source(secret, ca_file=ca)) as connector, pytest.raises(ConfigError, match="has no stream"):
                connector.probe()
            with closing(source(secret)) as connector, pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
                connector.probe()
            with closing(source(secret, ca_file="absent")) as connector, pytest.raises(ConfigError, match="ca_file"):
                connector.probe()
        with (
            closing(NatsJetStream(NatsJetStream.Config(urls=f"tls://127.0.0.1:{plain.port}", stream="S"))) as connector,
            pytest.raises(ConfigError, match="offers no TLS"),
        ):
            connector.probe()


def jwt(issuer: Any, subject: str, name: str, claims: dict[str, Any]) -> str:
    """A NATS JWT, signed by an nkey pair. Source: ADR-14."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    issued_by = issuer.public_key.decode()
    body = {"iat": int(time.time()), "iss": issued_by, "name": name, "sub": subject, "nats": {"version": 2, **claims}}
    digest = hashlib.sha512(json.dumps({**body, "jti": ""}).encode()).digest()[:32]
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = part(b'{"typ":"JWT","alg":"ed25519-nkey"}') + b"." + part(json.dumps(body).encode())
    return (text + b"." + part(issuer.sign(text))).decode()


def test_a_credentials_file_signs_the_servers_nonce() -> None:
    nkeys = pytest.importorskip("nkeys", reason="the Python library nkeys is not installed (headrace[nats])")

    def pair(kind: int) -> Any:
        return nkeys.from_seed(nkeys.encode_seed(random.randbytes(32), kind))

    operator, user = pair(nkeys.PREFIX_BYTE_OPERATOR), pair(nkeys.PREFIX_BYTE_USER)
    account, system = pair(nkeys.PREFIX_BYTE_ACCOUNT), pair(nkeys.PREFIX_BYTE_ACCOUNT)
    account_id, system_id, user_id = (keys.public_key.decode() for keys in (account, system, user))
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits = {**unlimited, "wildcards": True, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    operator_claims = {"type": "operator", "system_account": system_id}
    operator_jwt = jwt(operator, operator.public_key.decode(), "op", operator_claims)
    account_jwt = jwt(operator, account_id, "acc", {"type": "account", "limits": limits})
    system_jwt = jwt(operator, system_id, "sys", {"type": "account", "limits": {**unlimited, "wildcards": True}})
    user_jwt = jwt(account, user_id, "me", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    preload = f"{{ {account_id}: {account_jwt}, {system_id}: {system_jwt} }}"
    config = f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {preload}"
    with NatsServer(config) as guarded:
        creds = guarded.folder / "me.creds"
        creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
        )
        with closing(source(guarded, creds_file=str(creds))) as connector, pytest.raises(ConfigError) as caught:
            connector.probe()
        assert "has no stream" in str(caught.value)  # we are in, and may ask
        with closing(source(guarded)) as connector, pytest.raises(ConfigError, match="creds_file"):
            connector.probe()
        creds.write_text("nothing")
        with (
            closing(source(guarded, creds_file=str(creds))) as connector,
            pytest.raises(ConfigError, match="no user JWT and seed"),
        ):
            connector.probe()
