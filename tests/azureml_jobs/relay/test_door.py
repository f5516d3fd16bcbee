"""The relay's rules without a socket: who is ended in a flood, by what somebody is counted, which path means what."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.relay.connection_proofs import ACCEPT, SILO, Claim
from azureml_jobs.relay.door import Door, Federation, Refused, claim_of, network_of, path_of
from azureml_jobs.relay.settings import FederationLimits, settings_of
from tests.faults.federation import Federation as Keys


class Socket:
    def __init__(self) -> None:
        self.ended = False

    def end(self) -> None:
        self.ended = True

    def has_ended(self) -> bool:
        return self.ended


def door(**file: object) -> Door:
    raw = {"name": "relay", "federations": {"a": {"ca": ["ca.pem"]}}, **file}
    return Door(settings_of(raw, Path("/"), "a test"), lambda: 0.0)


def test_of_too_many_strangers_the_oldest_of_the_fullest_address_is_ended() -> None:
    one = door(strangers=4)
    sockets = {name: Socket() for name in ("a1", "b1", "b2", "b3", "c1")}
    for name, socket in sockets.items():
        one.arrives(name, f"10.0.0.{ord(name[0])}", socket)
    assert [name for name, socket in sockets.items() if socket.ended] == ["b1"]
    assert len(one) == 4


def test_who_has_proven_something_or_has_gone_is_no_stranger() -> None:
    one = door(strangers=2)
    sockets = [Socket() for _ in range(4)]
    one.arrives(0, "10.0.0.1", sockets[0])
    one.leaves(0)
    one.arrives(1, "10.0.0.1", sockets[1])
    sockets[1].ended = True
    one.arrives(2, "10.0.0.1", sockets[2])
    one.arrives(3, "10.0.0.1", sockets[3])
    assert not any(socket.ended for socket in (sockets[0], *sockets[2:]))


def test_an_ingress_behind_which_everybody_may_be_is_ended_last() -> None:
    one = door(strangers=3, ingress=["10.9.0.0/16"])
    sockets = [Socket() for _ in range(4)]
    for number, address in enumerate(["10.9.0.1", "10.9.0.1", "10.9.0.1", "10.0.0.2"]):
        one.arrives(number, address, sockets[number])
    assert [socket.ended for socket in sockets] == [False, False, False, True]


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("10.9.0.1", "1.2.3.4, 5.6.7.8", "5.6.7.8"),
        ("10.9.0.1", None, "10.9.0.1"),
        ("10.0.0.1", "5.6.7.8", "10.0.0.1"),
        ("2001:db8:1:2:3::4", None, "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", None, "10.0.0.1"),
        ("10.9.0.1", "nonsense", "nonsense"),
    ],
)
def test_an_address_is_believed_where_an_ingress_tells_it(
    peer: str, forwarded: str | None, counted: str
) -> None:
    assert door(ingress=["10.9.0.0/16"]).address_of(peer, forwarded) == counted


def test_an_address_that_connects_too_often_is_refused_alone() -> None:
    one = door(connections_per_minute=2)
    for _ in range(2):
        one.check_rate("10.0.0.1")
    with pytest.raises(Refused) as refused:
        one.check_rate("10.0.0.1")
    assert refused.value.status == 429
    one.check_rate("10.0.0.2")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/a/server",
        "/v1/a/server/other",
        "/v1/b/server/silo",
        "/v1/a/../silo",
        "/v1/a/" + "s" * 65 + "/silo",
        "/v1/a/server/accept/xyz",
        "/v1/a/server/accept/" + "a" * 33,
        "/v1/a/server/silo/",
        "//v1/a/server/silo",
        "/v1/a%2f/server/silo",
    ],
)
def test_another_path_opens_nothing(path: str) -> None:
    with pytest.raises(Refused) as refused:
        claim_of(path, {"a": None})
    assert refused.value.status == 404


@pytest.mark.parametrize("claim", [Claim("a", "s", SILO), Claim("a", "s", ACCEPT, "a" * 32)])
def test_a_path_says_as_whom_one_connects(claim: Claim) -> None:
    assert claim_of(path_of(claim), {"a": None}) == claim


def test_a_ca_that_is_put_in_the_place_of_another_counts_at_once_and_a_missing_file_keeps_it(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = Keys(tmp_path / "one", 1), Keys(tmp_path / "two", 1)
    file = tmp_path / "ca.pem"
    federation = Federation("a", FederationLimits(ca=[str(file)]), lambda: 0.0)
    assert federation.authorities == []
    file.write_bytes(one.authority)
    assert len(federation.authorities) == 1
    file.write_bytes(one.authority + two.authority)
    assert len(federation.authorities) == 2
    file.write_text("half a file")
    assert len(federation.authorities) == 2
    file.unlink()
    assert len(federation.authorities) == 2


def test_an_address_of_ipv6_is_counted_by_its_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::2")
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
