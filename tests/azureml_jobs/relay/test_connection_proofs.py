"""What opens a connection at a relay: a signature of this challenge, for this relay, federation, server and role."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.relay.connection_proofs import (
    ACCEPT,
    CONTROL,
    SILO,
    Challenge,
    Claim,
    Proof,
)
from azureml_jobs.relay.control_frames import Offer, Refusal
from conf.errors import IdentityError, WireError
from tests.azureml_jobs.relay.place import server_signer, silo_signer
from tests.faults.federation import Federation

CHALLENGE = Challenge.drawn("relay.example.org", 1_000_000.0)
CLAIM = Claim("federation", "server", SILO)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"), 2)


def test_a_silos_own_proof_names_its_key(federation: Federation) -> None:
    proof = silo_signer(federation).proof(CHALLENGE, CLAIM)
    key = proof.checked(CHALLENGE, CLAIM, authorities_in(federation.authority), NOW)
    assert key.startswith("SHA256:")


@pytest.mark.parametrize(
    "other",
    [
        replace(CHALLENGE, relay="another.example.org"),
        replace(CHALLENGE, nonce="0" * 64),
        replace(CHALLENGE, expires=CHALLENGE.expires + 1),
    ],
)
def test_a_proof_for_another_relay_or_challenge_opens_nothing(
    federation: Federation, other: Challenge
) -> None:
    proof = silo_signer(federation).proof(other, CLAIM)
    with pytest.raises(IdentityError, match="MDW-765"):
        proof.checked(CHALLENGE, CLAIM, authorities_in(federation.authority), NOW)


@pytest.mark.parametrize(
    "other",
    [
        replace(CLAIM, server="another"),
        replace(CLAIM, role=CONTROL),
        replace(CLAIM, role=ACCEPT, stream="a" * 32),
        replace(CLAIM, federation="another"),
        replace(CLAIM, stream="b" * 32),
    ],
)
def test_a_proof_for_another_role_server_federation_or_stream_opens_nothing(
    federation: Federation, other: Claim
) -> None:
    proof = silo_signer(federation).proof(CHALLENGE, CLAIM)
    with pytest.raises(IdentityError, match="MDW-765"):
        proof.checked(CHALLENGE, other, authorities_in(federation.authority), NOW)


def test_a_silo_is_no_orchestrator_and_an_orchestrator_no_silo(federation: Federation) -> None:
    authorities = authorities_in(federation.authority)
    control = replace(CLAIM, role=CONTROL)
    with pytest.raises(IdentityError, match="MDW-765"):
        silo_signer(federation).proof(CHALLENGE, control).checked(
            CHALLENGE, control, authorities, NOW
        )
    with pytest.raises(IdentityError, match="MDW-765"):
        server_signer(federation).proof(CHALLENGE, CLAIM).checked(
            CHALLENGE, CLAIM, authorities, NOW
        )
    server_signer(federation).proof(CHALLENGE, control).checked(
        CHALLENGE, control, authorities, NOW
    )


def test_a_key_of_another_ca_opens_nothing_and_one_of_two_cas_does(
    federation: Federation, tmp_path: Path
) -> None:
    other = Federation(tmp_path, 1)
    proof = silo_signer(other).proof(CHALLENGE, CLAIM)
    with pytest.raises(IdentityError, match="MDW-765"):
        proof.checked(CHALLENGE, CLAIM, authorities_in(federation.authority), NOW)
    both = authorities_in(federation.authority + other.authority)
    proof.checked(CHALLENGE, CLAIM, both, NOW)


def test_a_certificate_is_good_within_its_dates(federation: Federation) -> None:
    proof = silo_signer(federation).proof(CHALLENGE, CLAIM)
    late = NOW + timedelta(days=365 * 9)
    with pytest.raises(IdentityError, match="not valid now"):
        proof.checked(CHALLENGE, CLAIM, authorities_in(federation.authority), late)


def test_a_certificate_with_another_keys_signature_opens_nothing(federation: Federation) -> None:
    thief = replace(silo_signer(federation, "silo-2"), certificate=federation.admission("silo-1"))
    with pytest.raises(IdentityError, match="MDW-765"):
        thief.proof(CHALLENGE, CLAIM).checked(
            CHALLENGE, CLAIM, authorities_in(federation.authority), NOW
        )


@pytest.mark.parametrize(
    "frame",
    [
        b"bytes",
        "",
        "[]",
        "null",
        "{",
        "[" * 10_000,
        "x" * 20_000,
        json.dumps({"certificate": "x", "signature": ""}),
        json.dumps({"certificate": 5, "signature": "x"}),
        json.dumps({"certificate": "x" * 9000, "signature": "x"}),
        json.dumps({"version": 2, "relay": "a", "nonce": "0" * 64, "expires": 1}),
        json.dumps({"version": 1, "relay": "a b", "nonce": "0" * 64, "expires": 1}),
        json.dumps({"version": 1, "relay": "a", "nonce": "0" * 63, "expires": 1}),
        json.dumps({"version": 1, "relay": "a", "nonce": "0" * 64, "expires": True}),
        json.dumps({"open": "x", "challenge": 1}),
        json.dumps({"open": "a" * 32, "challenge": "{}"}),
        json.dumps({"refuse": 5}),
    ],
)
def test_a_frame_of_any_other_shape_is_refused(frame: object) -> None:
    for read in (Challenge.from_text, Proof.from_text, Offer.from_text, Refusal.from_text):
        with pytest.raises(WireError, match="MDW-690"):
            read(frame)


def test_what_is_said_is_read_back(federation: Federation) -> None:
    assert Challenge.from_text(CHALLENGE.to_text()) == CHALLENGE
    proof = silo_signer(federation).proof(CHALLENGE, CLAIM)
    assert Proof.from_text(proof.to_text()) == proof
    offer = Offer("c" * 32, CHALLENGE, proof)
    assert Offer.from_text(offer.to_text()) == offer
    assert Refusal.from_text(Refusal("d" * 32, "why\n\x1b[31m").to_text()).why.isprintable()


def test_a_signer_shows_no_key(federation: Federation) -> None:
    assert repr(silo_signer(federation)) == "Signer()"
