"""A silo that trusts one CA trusts those that follow it by its own word, and no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.identity.authority import (
    CA_CERTIFICATE,
    CA_KEY,
    ca_before,
    make_ca,
    server_credentials,
)
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import authorities_in
from azureml_jobs.identity.succession import Succession, finish_ca, followed, rotate_ca
from conf.errors import IdentityError

NOW = datetime.now(UTC)


def ca(folder: Path) -> FolderSecrets:
    folder.mkdir(mode=0o700)
    secrets = FolderSecrets(folder)
    make_ca(secrets, "clinics", NOW)
    return secrets


def rotated(secrets: FolderSecrets) -> Succession:
    made = rotate_ca(secrets, "clinics", NOW)
    assert made is not None
    return made


def test_who_missed_some_follows_to_the_last(tmp_path: Path) -> None:
    secrets = ca(tmp_path / "keys")
    pinned = secrets.get(CA_CERTIFICATE)
    chain = [rotated(secrets) for _ in range(3)]
    trusted = followed(pinned, reversed(chain))
    assert len(authorities_in(trusted)) == 4
    assert chain[-1].certificate.encode() == secrets.get(CA_CERTIFICATE)
    assert followed(pinned, chain[1:]) == pinned


def test_nobody_else_s_word_counts(tmp_path: Path) -> None:
    secrets = ca(tmp_path / "keys")
    pinned = secrets.get(CA_CERTIFICATE)
    theirs = ca(tmp_path / "theirs")
    their_certificate = theirs.get(CA_CERTIFICATE).decode()
    their_word = rotated(theirs)
    good = rotated(secrets)
    server = server_credentials(secrets, ["127.0.0.1"], NOW).certificate.decode()
    for forged in (
        their_word,
        replace(good, certificate=their_certificate),
        replace(good, signature=their_word.signature),
        replace(good, certificate=good.certificate + their_certificate),
        replace(good, certificate=server),
        Succession("", ""),
        Succession("x" * 10_000, "="),
    ):
        assert followed(pinned, [forged]) == pinned


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "x" * 9000, "[" * 8000, b"\xff", "7"])
def test_what_is_no_succession_is_none(text: str) -> None:
    assert Succession.from_text(text) is None


def test_it_reads_what_it_writes(tmp_path: Path) -> None:
    good = rotated(ca(tmp_path / "keys"))
    assert Succession.from_text(good.to_text()) == good


def test_both_are_trusted_until_it_is_finished_and_the_older_key_is_gone(tmp_path: Path) -> None:
    secrets = ca(tmp_path / "keys")
    older = secrets.get(CA_CERTIFICATE)
    older_key = secrets.get(CA_KEY)
    rotated(secrets)
    assert secrets.get(CA_KEY) != older_key
    assert older_key not in [secrets.get(name) for name in secrets.list()]
    newer = secrets.get(CA_CERTIFICATE)
    assert server_credentials(secrets, ["127.0.0.1"], NOW).ca == newer + older
    assert finish_ca(secrets)
    assert not finish_ca(secrets)
    assert server_credentials(secrets, ["127.0.0.1"], NOW).ca == newer


def test_a_lost_key_gives_no_word_and_a_stolen_one_no_trust(tmp_path: Path) -> None:
    secrets = ca(tmp_path / "keys")
    older = secrets.get(CA_CERTIFICATE)
    secrets.delete(CA_KEY)
    assert rotate_ca(secrets, "clinics", NOW, lost=True) is None
    assert ca_before(secrets) == older
    assert rotate_ca(secrets, "clinics", NOW, stolen=True) is None
    assert ca_before(secrets) == b""
    assert server_credentials(secrets, ["127.0.0.1"], NOW).ca == secrets.get(CA_CERTIFICATE)


def test_there_must_be_one_to_be_replaced(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="MDW-721"):
        rotate_ca(FolderSecrets(tmp_path / "none"), "clinics", NOW)
