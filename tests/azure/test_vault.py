"""A Key Vault holds a federation's private parts as a folder does, and says who may not read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from azure.core.exceptions import ResourceExistsError
from hypothesis import given
from hypothesis import strategies as st

from azureml_jobs.identity import azure_sign_in
from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.identity.key_vault import VaultSecrets, secret_name, vault_name
from azureml_jobs.identity.node_key import load_node_key, make_node_key, node_secret, public_line
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from conf.errors import AzureError, IdentityError


@pytest.fixture
def vault(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> VaultSecrets:
    become(cloud, monkeypatch, "owner of north")
    cloud.access.grant("owner of north", "Key Vault Secrets Officer", "vault:kv-north")
    secrets = VaultSecrets("kv-north")
    for name in secrets.list():
        secrets.delete(name)
    return secrets


def become(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for key, value in cloud.signed_in_as(name).items():
        monkeypatch.setenv(key, value)


def test_a_secret_is_kept_replaced_listed_and_forgotten(vault: VaultSecrets) -> None:
    vault.set("node-north_1", b"\x00first")
    vault.set("node-north_1", b"\x00second")
    assert vault.get("node-north_1") == b"\x00second"
    assert vault.list() == ["node-north_1"]
    vault.delete("node-north_1")
    vault.delete("node-north_1")
    assert vault.list() == []
    with pytest.raises(IdentityError, match=r"MDW-700.*kv-north"):
        vault.get("node-north_1")


def test_no_two_names_share_a_secret(vault: VaultSecrets) -> None:
    names = [
        f"node-{name}"
        for name in ("a-b", "a_b", "A-b", "a-B", "A_b", "a--b", "a-_b", "a_-b", "a-b-0")
    ]
    for name in names:
        vault.set(name, name.encode())
    assert vault.list() == sorted(names)
    assert [vault.get(name).decode() for name in names] == names
    vault.delete("node-a_b")
    assert vault.list() == sorted({*names} - {"node-a_b"}) and vault.get("node-a-b") == b"node-a-b"


def test_two_silos_whose_names_differ_in_a_stroke_have_a_key_each(vault: VaultSecrets) -> None:
    first, second = (
        make_node_key(vault, "hospitals", "a_b"),
        make_node_key(vault, "hospitals", "a-b"),
    )
    kept = [
        load_node_key(vault.get(node_secret("hospitals", silo)), silo).public_key()
        for silo in ("a_b", "a-b")
    ]
    assert [public_line(key) for key in kept] == [first, second] and first != second
    with pytest.raises(IdentityError, match=r"MDW-707.*a_b"):
        make_node_key(vault, "hospitals", "a_b")


def test_keys_and_the_ca_live_in_a_vault(vault: VaultSecrets) -> None:
    public = make_node_key(vault, "hospitals", "north")
    assert public.startswith("ecdsa-sha2-nistp384 ")
    load_node_key(vault.get(node_secret("hospitals", "north")), "the vault")
    now = datetime.now(UTC)
    make_ca(vault, "hospitals", now)
    assert b"BEGIN CERTIFICATE" in server_credentials(vault, ["127.0.0.1"], now).certificate


def test_another_silo_s_vault_is_refused_with_identity_and_role(
    vault: VaultSecrets, cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(cloud, monkeypatch, "south/gpu")
    with pytest.raises(
        AzureError, match=r"MDW-801.*kv-north.*south/gpu.*role 'Key Vault Secrets User'"
    ):
        VaultSecrets("kv-north").get("node-north")
    assert [(t.identity, t.resource) for t in cloud.request_log.refused()] == [
        ("south/gpu", "vault:kv-north")
    ]


def test_a_reader_may_not_write(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    become(cloud, monkeypatch, "north/gpu")
    cloud.access.grant("north/gpu", "Key Vault Secrets User", "vault:kv-north")
    with pytest.raises(AzureError, match=r"MDW-801.*Key Vault Secrets Officer"):
        VaultSecrets("kv-north").set("node-north", b"x")


def test_a_token_that_has_expired_is_an_error_of_its_own(
    vault: VaultSecrets, cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.tokens, "life", -10.0)
    azure_sign_in.forget()
    with pytest.raises(AzureError, match=r"MDW-80[03]"):
        VaultSecrets("kv-north", sign_in(interactive=False)).list()


def test_nobody_signed_in_says_so(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(AzureError, match=r"MDW-803.*Sign in"):
        VaultSecrets("kv-north", sign_in(interactive=False)).list()


LETTERS = st.text("abAB01-_", min_size=1, max_size=8).filter(lambda name: name[0] not in "-_")


@given(st.lists(LETTERS, min_size=2, max_size=20, unique=True))
def test_every_name_has_a_spelling_of_its_own_that_is_read_back(names: list[str]) -> None:
    spellings = [vault_name(name) for name in names]
    # A vault does not distinguish capitals from small letters.
    assert len({spelling.lower() for spelling in spellings}) == len(names)
    assert [secret_name(spelling) for spelling in spellings] == names
    assert all(re.fullmatch(r"[0-9a-z-]{1,127}", spelling) for spelling in spellings)


def test_the_longest_name_fits_a_vault_and_plain_ones_stay_as_they_are() -> None:
    assert len(vault_name("N" + "_" * 79)) <= 127
    assert vault_name("node-north") == "node-north" and vault_name("node-a_b") == "node-a-b--40"


@pytest.mark.parametrize(
    "known", ["Node-north", "node-a--0b", "node-a-b--zz", "node-a-b--0", "--1", "node-1--20", ""]
)
def test_what_others_named_is_none_of_ours(known: str) -> None:
    assert secret_name(known) is None


def test_a_deleted_secret_that_the_vault_still_keeps_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Recoverable:
        def set_secret(self, name: str, value: str, content_type: str) -> None:
            raise ResourceExistsError(
                f"Secret {name} is currently in a deleted but recoverable state"
            )

    secrets = VaultSecrets("kv-north")
    monkeypatch.setattr(secrets, "_client_cache", Recoverable())
    with pytest.raises(
        IdentityError, match=r"MDW-704.*recover --vault-name kv-north --name node-a-b--40"
    ):
        secrets.set("node-a_b", b"key")


@pytest.mark.parametrize(
    "name",
    ["", "a", "kv_north", "https://kv-north.vault.azure.net", "-kv", "kv-north.example.org"],
)
def test_what_is_no_vault_s_name_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match=r"MDW-709"):
        VaultSecrets(name)
