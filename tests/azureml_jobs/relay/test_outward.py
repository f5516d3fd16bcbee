"""How connections leave: proxies with passwords, proxies that inspect, hosts without one, and no password in sight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from azureml_jobs.relay.outward import Outward, dial, is_named, quiet_websockets
from conf.errors import ConfigError, IdentityError, MeadowError, WireError
from conf.schema import OutboundConf
from conf.validate import check_outbound
from tests.azureml_jobs.relay.place import RelayThread, relay_of
from tests.azureml_jobs.relay.proxies import PASSWORD, USER, Proxy
from tests.azureml_jobs.relay.public_ca import PublicCa
from tests.faults.federation import Federation, free_port


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "federation").mkdir()
    with relay_of(folder, Federation(folder / "federation", 1)) as made:
        yield made


def opened(address: str, outward: Outward) -> str:
    """The first frame of a connection."""

    async def test() -> str:
        connection = await dial(address, outward)
        try:
            return str(await connection.recv())
        finally:
            await connection.close()

    return asyncio.run(_bounded(test()))


async def _bounded(what: Awaitable[str]) -> str:
    return await asyncio.wait_for(what, 30)


def silos_path(relay: RelayThread, host: str = "127.0.0.1") -> str:
    return f"wss://{host}:{relay.port}/v1/federation/server/silo"


def through(proxy: Proxy, relay: RelayThread, **more: object) -> Outward:
    outward = Outward(relay.ca.file, proxy.url, USER, PASSWORD)
    return replace(outward, **more)  # type: ignore[arg-type]


def test_a_proxy_opens_the_way_for_who_knows_its_password(relay: RelayThread) -> None:
    with Proxy() as proxy:
        assert '"nonce"' in opened(silos_path(relay), through(proxy, relay))
        assert proxy.seen == [f"127.0.0.1:{relay.port}"]


def test_the_relays_name_is_what_the_proxy_and_the_tls_are_told(relay: RelayThread) -> None:
    """It resolves nowhere here: the proxy knows the way, and the certificate has the name."""
    with Proxy(to=f"127.0.0.1:{relay.port}") as proxy:
        assert '"nonce"' in opened(silos_path(relay, "relay.test"), through(proxy, relay))
        assert proxy.seen == [f"relay.test:{relay.port}"]


def test_a_wrong_password_is_told_with_the_proxy_and_without_the_password(
    relay: RelayThread, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Proxy() as proxy:
        with pytest.raises(WireError, match=r"MDW-693.*407") as told:
            opened(silos_path(relay), through(proxy, relay, password=f"{PASSWORD}x"))
        assert proxy.refused == 1
    assert proxy.url in str(told.value)
    for text in (str(told.value), repr(through(proxy, relay)), caplog.text):
        assert PASSWORD not in text
        assert "s3cret" not in text


def test_a_proxy_that_is_not_there_is_told(relay: RelayThread) -> None:
    gone = Outward(relay.ca.file, f"http://127.0.0.1:{free_port()}", USER, PASSWORD)
    with pytest.raises(WireError, match=r"MDW-692.*through the proxy") as told:
        opened(silos_path(relay), gone)
    assert "s3cret" not in str(told.value)


def test_a_host_that_needs_no_proxy_is_dialled_at_once(relay: RelayThread) -> None:
    with Proxy() as proxy:
        assert opened(silos_path(relay), through(proxy, relay, not_by_proxy=("127.0.0.0/8",)))
        assert proxy.seen == []


def test_a_proxy_that_inspects_is_trusted_by_the_owners_bundle_alone(
    relay: RelayThread, tmp_path: Path
) -> None:
    inspecting = PublicCa.made(tmp_path / "inspecting", "inspecting")
    with Proxy(inspect=inspecting, trusted=relay.ca.file) as proxy:
        with pytest.raises(IdentityError, match=r"MDW-766.*outbound\.ca"):
            opened(silos_path(relay), through(proxy, relay))
        assert opened(silos_path(relay), through(proxy, relay, trusted=inspecting.file))
        assert b"GET /v1/federation/server/silo" in proxy.read


def test_a_certificate_of_another_name_is_refused(relay: RelayThread) -> None:
    with (
        Proxy(to=f"127.0.0.1:{relay.port}") as proxy,
        pytest.raises(IdentityError, match="MDW-766"),
    ):
        opened(silos_path(relay, "other.test"), through(proxy, relay))


def test_what_is_no_relay_and_who_is_not_there_have_words_of_their_own(relay: RelayThread) -> None:
    outward = Outward(relay.ca.file)
    with pytest.raises(WireError, match="MDW-692"):
        opened(f"wss://127.0.0.1:{free_port()}/", outward)
    with pytest.raises(InvalidStatus):
        opened(f"wss://127.0.0.1:{relay.port}/v1/nobodys/server/silo", outward)
    with pytest.raises(IdentityError, match="MDW-766"):
        opened(silos_path(relay), Outward(relay.ca.folder / "relay.key"))


@pytest.mark.parametrize(
    ("host", "names", "named"),
    [
        ("relay.example.org", ("example.org",), True),
        ("relay.example.org", (".example.org",), True),
        ("relay.example.org", ("RELAY.example.org",), True),
        ("relayexample.org", (".example.org",), False),
        ("relay.example.org", ("*",), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("relay.example.org", (), False),
    ],
)
def test_hosts_without_a_proxy_are_named_as_in_no_proxy(
    host: str, names: tuple[str, ...], named: bool
) -> None:
    assert is_named(host, names) is named


def test_a_password_comes_from_a_variable_a_file_or_a_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", PASSWORD)
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(f"{PASSWORD}\n")
    for where in ("env:PROXY_PASSWORD", f"file:{file}", "vault:proxy"):
        conf = OutboundConf(proxy="http://proxy:3128", proxy_user=USER, proxy_password=where)
        outward = Outward.from_conf(conf, lambda name: PASSWORD.encode())
        assert outward.password == PASSWORD
        assert "%3A" in str(outward.proxy_for("relay"))


def test_a_password_that_is_missing_or_open_to_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    file.chmod(0o644)
    for where in ("env:NO_SUCH_VARIABLE", f"file:{file}", "file:/no/such/file", "vault:proxy"):
        conf = OutboundConf(proxy="http://proxy:3128", proxy_user=USER, proxy_password=where)
        with pytest.raises(IdentityError, match="MDW-768"):
            Outward.from_conf(conf)


@pytest.mark.parametrize(
    "conf",
    [
        OutboundConf(proxy_user=USER, proxy_password="env:A"),
        OutboundConf(no_proxy=["a"]),
        OutboundConf(proxy="http://a:1", proxy_user=USER),
        OutboundConf(proxy="http://a:1", proxy_password="env:A"),
    ],
)
def test_settings_that_mean_nothing_alone_are_refused(conf: OutboundConf) -> None:
    with pytest.raises(ConfigError, match="MDW-118"):
        check_outbound(conf, "outbound", lambda key: "a test")


def test_every_error_of_the_way_is_ours(relay: RelayThread) -> None:
    """A server that speaks something else ends a try, and no thread."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\xff" * 5000)
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for address in (f"ws://127.0.0.1:{port}/", f"wss://127.0.0.1:{port}/"):
                with pytest.raises(MeadowError, match="MDW-692"):
                    await dial(address, Outward(relay.ca.file))

    asyncio.run(test())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_proxy_that_hangs_up_leaves_a_line_and_no_traceback(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What the library raises in a callback nobody can catch: before the proxy's answer, in it, and
    in the handshake of TLS after it.
    """

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    async def test() -> str:
        quiet_websockets()
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with server:
                await dial("wss://relay.test/", Outward(proxy=f"http://127.0.0.1:{port}"))
        finally:
            while "MDW-728" not in caplog.text:
                await asyncio.sleep(0.01)
        return ""

    with pytest.raises(MeadowError, match=r"MDW-69[23]"):
        asyncio.run(_bounded(test()))
    assert "MDW-728: a connection broke where nobody waited for it" in caplog.text
    assert "Traceback" not in caplog.text
