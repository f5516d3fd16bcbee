"""Who has no certificate of the CA ends in the handshake; each call compares the certificate's key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from azureml_jobs.identity.node_key import fresh_node_key, public_line
from azureml_jobs.identity.signed_admission import Admission, check_admission, read_admission
from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import IdentityError
from server.orchestrator.service import Orchestrator
from server.store.admitted_keys import AdmittedKeys
from tests.azureml_jobs.identity.authorities import authority_in
from tests.faults.federation import Federation
from tests.security.caller import Caller, certified

DAY = 86400.0


class Door:
    """An orchestrator that admits two silos."""

    def __init__(self, federation: Federation, orchestrator: Orchestrator) -> None:
        self.federation = federation
        self.orchestrator = orchestrator
        self.address = orchestrator.address

    def beat(self, caller: Caller) -> str:
        """Return how a heartbeat is answered: `let in`, or the status and the reason."""
        request = SendNodeHeartbeatRequest(node=caller.node, heartbeat_interval=10)
        try:
            caller.call("SendNodeHeartbeat", request)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
        return "let in"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    federation = Federation(tmp_path_factory.mktemp("door"))
    with federation.orchestrator() as orchestrator:
        yield Door(federation, orchestrator)


def test_a_stranger_without_a_certificate_ends_in_the_handshake(door: Door) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    anonymous = Caller(door.federation, door.address, key)
    anonymous.reopen(grpc.ssl_channel_credentials(door.federation.authority))
    assert door.beat(anonymous).startswith("UNAVAILABLE ")


def test_a_stranger_with_a_certificate_of_another_ca_ends_in_the_handshake(
    door: Door, tmp_path: Path
) -> None:
    other = Federation(tmp_path)
    key = ec.generate_private_key(ec.SECP384R1())
    stranger = Caller(door.federation, door.address, key, certified(other, key))
    assert door.beat(stranger).startswith("UNAVAILABLE ")


def test_a_certified_key_that_the_list_does_not_have_is_told_so_with_its_fingerprint(
    door: Door,
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    said = door.beat(Caller(door.federation, door.address, key))
    name = read_admission(certified(door.federation, key)[1], "it").fingerprint
    assert said.startswith(f"UNAUTHENTICATED MDW-743: The key {name} is not admitted")


def test_one_silo_s_certificate_does_not_carry_another_silo_s_calls(door: Door) -> None:
    insider = Caller.silo(door.federation, door.address, "silo-2")
    victim = Caller.silo(door.federation, door.address, "silo-1")
    mixed = Caller(
        door.federation, door.address, victim.key, certified(door.federation, insider.key)
    )
    assert door.beat(mixed).startswith("UNAUTHENTICATED MDW-745: ")
    assert door.beat(victim) == "let in"


@pytest.mark.parametrize(("expired", "code"), [(False, "MDW-744"), (True, "MDW-717")])
def test_an_open_connection_is_shut_out_at_its_next_call_and_let_in_again_at_once(
    door: Door, expired: bool, code: str
) -> None:
    caller = Caller.silo(door.federation, door.address, "silo-1")
    assert door.beat(caller) == "let in"
    door.orchestrator.revoke_key(caller.pem, expired=expired)
    said = door.beat(caller)
    assert said.startswith(f"UNAUTHENTICATED {code}: ") and "SHA256:" in said
    door.orchestrator.admit_key("silo-1", caller.pem)
    assert door.beat(caller) == "let in"


def test_a_refused_call_costs_no_reading_of_its_body(door: Door) -> None:
    stranger = Caller(door.federation, door.address, ec.generate_private_key(ec.SECP384R1()))
    never = stranger.channel.stream_unary("/flwr.proto.Fleet/PushObject")

    def bodies() -> Iterator[bytes]:
        time.sleep(60)
        yield b""

    with pytest.raises(grpc.RpcError) as error:
        never(bodies(), timeout=10, metadata=stranger.headers())
    assert error.value.details().startswith("MDW-743")


def test_an_entry_of_the_list_that_the_ca_did_not_sign_admits_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = authority_in(tmp_path / "ours")
    theirs = authority_in(tmp_path / "theirs")
    store = FolderStore(tmp_path / "store")
    AdmittedKeys(store, time.time, ours).admit("north", fresh_node_key()[1])
    AdmittedKeys(store, time.time, theirs).admit("south", fresh_node_key()[1])
    server = AdmittedKeys(store, time.time, ca=ours.secrets.get("ca-certificate"))
    assert list(server.current().values()) == ["north"]
    assert "MDW-716" in caplog.text


def test_a_signed_admission_can_not_be_changed(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    ca = authority.secrets.get("ca-certificate")
    line = fresh_node_key()[1]
    now = time.time()
    limits = {"examples_at_most": 100.0}
    admission = Admission("test", "north", line, now, now + DAY, limits)
    signed = authority.sign(admission)
    assert check_admission(signed, ca, "it") == admission
    der = _der(signed)
    changed = _pem(der.replace(b'"examples_at_most": 100.0', b'"examples_at_most": 900.0'))
    assert json.loads(json.dumps(read_admission(changed, "it").limits)) == {
        "examples_at_most": 900.0
    }
    with pytest.raises(IdentityError, match=r"MDW-716.*did not sign"):
        check_admission(changed, ca, "it")


@pytest.mark.parametrize("garbage", [b"", b"x" * 9000, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_admission_is_refused_before_it_is_parsed(
    tmp_path: Path, garbage: bytes
) -> None:
    ca = authority_in(tmp_path).secrets.get("ca-certificate")
    with pytest.raises(IdentityError, match="MDW-716"):
        check_admission(garbage, ca, "it")
    with pytest.raises(IdentityError, match="MDW-716"):
        check_admission(ca, ca, "the CA's own certificate")


def test_the_key_of_a_certificate_is_the_silo_s(door: Door) -> None:
    caller = Caller.silo(door.federation, door.address, "silo-1")
    _, shown = certified(door.federation, caller.key, "silo-1")
    assert read_admission(shown, "it").line == public_line(caller.key.public_key())


def _der(pem: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def _pem(der: bytes) -> bytes:
    import ssl

    return ssl.DER_cert_to_PEM_cert(der).encode()
