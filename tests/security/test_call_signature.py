"""A signature is good for one server, one federation, one method and one body, and counts once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from azureml_jobs.identity.authority import server_credentials
from azureml_jobs.identity.call_signature import CallStatement, server_digest
from azureml_jobs.identity.node_key import load_node_key, node_secret
from client.node.call_signer import CallSigner
from conf.errors import IdentityError
from server.orchestrator.challenges import CHALLENGES_PER_KEY, WINDOW, Challenges, UsedNumbers
from server.orchestrator.own_calls import OwnCalls
from server.orchestrator.refusals import NeedsChallenge, Refusal
from server.orchestrator.service import Orchestrator
from strategies.wire.headers import (
    CALL_CHALLENGE,
    CALL_NUMBER,
    CALL_SERVER,
    CALL_SIGNATURE,
    CALL_TIME,
    NEEDS_CHALLENGE,
)
from tests.faults.federation import Federation
from tests.security.caller import Caller, Headers

BEAT = "/flwr.proto.Fleet/SendNodeHeartbeat"
PULL = "/flwr.proto.Fleet/PullMessages"


class Place:
    def __init__(self, federation: Federation, orchestrator: Orchestrator) -> None:
        self.federation = federation
        self.orchestrator = orchestrator
        self.caller = Caller.silo(federation, orchestrator.address, "silo-1")

    @property
    def beat(self) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(node=self.caller.node, heartbeat_interval=10)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    federation = Federation(tmp_path_factory.mktemp("signed"))
    with federation.orchestrator() as orchestrator:
        yield Place(federation, orchestrator)


def changed(headers: Headers, **values: Any) -> Headers:
    """Return headers with some replaced by their short name, or left out where the value is None."""
    names = {
        "challenge": CALL_CHALLENGE,
        "number": CALL_NUMBER,
        "time": CALL_TIME,
        "signature": CALL_SIGNATURE,
    }
    told = dict(headers) | {names[name]: value for name, value in values.items()}
    return [(name, value) for name, value in told.items() if value is not None]


def test_a_signed_call_counts_once(place: Place) -> None:
    request = place.beat
    headers = place.caller.signed(BEAT, request.SerializeToString())
    assert place.caller.call("SendNodeHeartbeat", request, headers).success
    assert "MDW-747" in place.caller.refused("SendNodeHeartbeat", request, headers)


def test_a_signature_is_of_one_method_and_one_body(place: Place) -> None:
    request = place.beat
    other_body = place.caller.signed(BEAT, b"another body")
    assert "MDW-745" in place.caller.refused("SendNodeHeartbeat", request, other_body)
    other_method = place.caller.signed(PULL, request.SerializeToString())
    assert "MDW-745" in place.caller.refused("SendNodeHeartbeat", request, other_method)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no challenge": ("MDW-760", {"challenge": None}),
    "a challenge that was never given": ("MDW-760", {"challenge": b"x" * 16}),
    "an empty challenge": ("MDW-760", {"challenge": b""}),
    "no number": ("MDW-742", {"number": None}),
    "garbage as number": ("MDW-742", {"number": "-1"}),
    "a huge number": ("MDW-742", {"number": "9" * 30}),
    "another number": ("MDW-745", {"number": "77777"}),
    "another time": ("MDW-745", {"time": "1"}),
    "no signature": ("MDW-742", {"signature": None}),
    "a huge signature": ("MDW-742", {"signature": "s" * 2000}),
    "garbage as signature": ("MDW-745", {"signature": "not base64!"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_headers_are_refused_with_a_reason(place: Place, case: str) -> None:
    code, values = WRONG[case]
    request = place.beat
    headers = changed(place.caller.signed(BEAT, request.SerializeToString()), **values)
    answer = place.caller.refused("SendNodeHeartbeat", request, headers)
    assert answer.startswith(f"UNAUTHENTICATED {code}: ")
    assert place.caller.call("SendNodeHeartbeat", request).success


def test_flower_s_own_signature_is_not_enough_at_this_port(place: Place) -> None:
    answer = place.caller.refused("SendNodeHeartbeat", place.beat, place.caller.headers())
    assert answer.startswith("UNAUTHENTICATED MDW-760: ")


class Relay:
    """The server of federation A, which passes the silo's calls on to B's and B's answers back."""

    def __init__(self, victim: Caller) -> None:
        self._victim = victim
        self.carried = 0

    def __call__(self, details: Any, body: bytes) -> Any:
        """Be the channel of the silo's signer: what B answers is what the silo hears of A."""
        self.carried += 1
        call = self._victim.channel.unary_unary(details.method)
        return call.future(body, timeout=20, metadata=details.metadata)


class Details:
    """As much of gRPC's details of a call as a signer asks for."""

    def __init__(self, method: str, metadata: Any = ()) -> None:
        self.method = method
        self.metadata = metadata

    def _replace(self, metadata: Any) -> Details:
        return Details(self.method, metadata)


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir(mode=0o700)
    return made


def test_the_server_of_one_federation_can_not_act_as_its_silo_in_another(tmp_path: Path) -> None:
    """A silo has one key in two federations. A's server holds B's connection (it stole a session, or
    sits before a gateway), passes B's challenge on as its own, and the silo's answer to B.
    """
    a = Federation(folder(tmp_path, "a"))
    b = Federation(folder(tmp_path, "b"))
    with b.orchestrator() as orchestrator:
        key = load_node_key(b.secrets.get(node_secret("federation", "silo-1")), "silo-1")
        relay = Relay(Caller.silo(b, orchestrator.address, "silo-1"))
        body = PullMessagesRequest(node=relay._victim.node).SerializeToString()
        # The silo trusts the CA of A, and does not sign for a server of B.
        deceived = CallSigner(key, "federation", a.authority)
        with pytest.raises(IdentityError, match="MDW-762"):
            deceived.intercept_unary_unary(relay, Details(PULL), body)
        # Even one CA for two federations is not enough: the federation's name is signed.
        named = CallSigner(key, "federation-a", b.authority)
        call = named.intercept_unary_unary(relay, Details(PULL), body)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert str(call.details()).startswith("MDW-745")
        # The honest silo of B is let in by the same way.
        honest = CallSigner(key, "federation", b.authority)
        beat = SendNodeHeartbeatRequest(node=relay._victim.node, heartbeat_interval=10)
        call = honest.intercept_unary_unary(relay, Details(BEAT), beat.SerializeToString())
        assert call.code() is grpc.StatusCode.OK
    assert relay.carried >= 4


def test_a_silo_s_own_certificate_is_no_server_s(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    key = load_node_key(federation.secrets.get(node_secret("federation", "silo-1")), "silo-1")
    signer = CallSigner(key, "federation", federation.authority)

    def liar(details: Any, body: bytes) -> Refused:
        return Refused(b"c" * 16, federation.admission("silo-1").encode())

    with pytest.raises(IdentityError, match="MDW-762"):
        signer.intercept_unary_unary(liar, Details(PULL), b"")


class Refused:
    """A refusal that brings a challenge."""

    def __init__(self, challenge: bytes, certificate: bytes) -> None:
        self._trailing = ((CALL_CHALLENGE, challenge), (CALL_SERVER, certificate))

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def details(self) -> str:
        return f"{NEEDS_CHALLENGE}: sign"

    def trailing_metadata(self) -> Any:
        return self._trailing


def test_a_server_that_only_asks_for_signatures_gets_few(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    key = load_node_key(federation.secrets.get(node_secret("federation", "silo-1")), "silo-1")
    signer = CallSigner(key, "federation", federation.authority)
    asked = []

    def greedy(details: Any, body: bytes) -> Refused:
        asked.append(details)
        return Refused(len(asked).to_bytes(16, "big"), federation.credentials().certificate)

    signer.intercept_unary_unary(greedy, Details(PULL), b"")
    assert len(asked) <= 3


def test_after_a_restart_the_node_signs_for_the_new_server_by_itself(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as first:
        port = int(first.address.rpartition(":")[2])
        caller = Caller.silo(federation, first.address, "silo-1")
        beat = SendNodeHeartbeatRequest(node=caller.node, heartbeat_interval=10)
        old = caller.signed(BEAT, beat.SerializeToString())
        assert caller.call("SendNodeHeartbeat", beat).success
    with federation.orchestrator(port):
        again = Caller.silo(federation, caller.address, "silo-1")
        again.signer = caller.signer
        again._stubs()
        assert "MDW-760" in again.refused("SendNodeHeartbeat", beat, old)
        assert again.call("SendNodeHeartbeat", beat).success


def test_calls_may_overtake_each_other_and_none_counts_twice() -> None:
    used = UsedNumbers()
    order = [1, 5, 3, 2, 4, WINDOW + 10, WINDOW + 9, 11]
    assert [used.use(number) for number in order] == [True] * 8
    assert not any(used.use(number) for number in order)
    assert not used.use(6), "too far behind to know"
    assert not used.use(0) and not used.use(-3) and not used.use(2**80)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 3 * WINDOW), max_size=60))
def test_a_number_is_never_used_twice(numbers: list[int]) -> None:
    used = UsedNumbers()
    counted = [number for number in numbers if used.use(number)]
    assert len(counted) == len(set(counted))


def test_a_key_has_few_challenges_and_only_its_own() -> None:
    challenges = Challenges()
    first = challenges.give(b"a")
    other = challenges.give(b"b")
    for _ in range(CHALLENGES_PER_KEY):
        challenges.give(b"a")
    assert not challenges.is_known(b"a", first) and not challenges.use(b"a", first, 1)
    assert challenges.is_known(b"b", other) and not challenges.is_known(b"a", other)
    challenges.forget(b"b")
    assert not challenges.is_known(b"b", other)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([CALL_CHALLENGE, CALL_NUMBER, CALL_TIME, CALL_SIGNATURE]),
        st.one_of(st.binary(max_size=300), st.text(max_size=100)),
    )
)
def test_any_garbage_ends_in_a_refusal(headers: dict[str, bytes | str]) -> None:
    own, challenge = OWN
    told = {CALL_CHALLENGE: challenge, **headers}
    with pytest.raises(Refusal) as refusal:
        said = own.begin(list(told.items()), b"key")
        own.check(said, BEAT, b"", b"key", STRANGER, "silo-1")
    assert isinstance(refusal.value, NeedsChallenge) or refusal.value.code in {"MDW-742", "MDW-745"}


def test_no_two_statements_are_the_same_bytes() -> None:
    one = CallStatement("a", b"s", b"c", 1, "/x/ab", "1", b"d")
    two = CallStatement("as", b"", b"c", 1, "/x/ab", "1", b"d")
    assert one.to_bytes() != two.to_bytes()


@pytest.fixture(scope="module", autouse=True)
def own_calls(tmp_path_factory: pytest.TempPathFactory) -> None:
    global OWN
    federation = Federation(tmp_path_factory.mktemp("own"), silos=1)
    made = server_credentials(federation.secrets, ["127.0.0.1"], datetime.now(UTC))
    assert len(server_digest(made.certificate)) == 32
    challenges = Challenges()
    OWN = OwnCalls("federation", made.certificate, challenges), challenges.give(b"key")


OWN: tuple[OwnCalls, bytes]
STRANGER = ec.generate_private_key(ec.SECP384R1()).public_key()
