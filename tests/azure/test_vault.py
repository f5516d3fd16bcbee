"""A Key Vault holds a federation's private parts as a folder does, and says who may not read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from azureml_jobs.credentials import make_ca, server_credentials
from azureml_jobs.loopback.cloud import LoopbackCloud
from azureml_jobs.node_keys import load_node_key, make_node_key, node_secret
from azureml_jobs.vault import VaultSecrets, sign_in
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
    assert vault.list() == ["node-north-1"]
    vault.delete("node-north_1")
    vault.delete("node-north_1")
    assert vault.list() == []
    with pytest.raises(IdentityError, match=r"MDW-700.*kv-north"):
        vault.get("node-north_1")


def test_keys_and_the_ca_live_in_a_vault(vault: VaultSecrets) -> None:
    public = make_node_key(vault, "north")
    assert public.startswith("ecdsa-sha2-nistp384 ")
    load_node_key(vault.get(node_secret("north")), "the vault")
    now = datetime.now(UTC)
    make_ca(vault, "hospitals", now)
    assert b"BEGIN CERTIFICATE" in server_credentials(vault, ["127.0.0.1"], now).certificate


def test_another_silo_s_vault_is_refused_with_identity_and_role(
    vault: VaultSecrets, cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(cloud, monkeypatch, "south/gpu")
    with pytest.raises(AzureError, match=r"MDW-801.*kv-north.*south/gpu.*role 'Key Vault Secrets User'"):
        VaultSecrets("kv-north").get("node-north")
    assert [(t.identity, t.resource) for t in cloud.journal.refused()] == [("south/gpu", "vault:kv-north")]


def test_a_reader_may_not_write(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    become(cloud, monkeypatch, "north/gpu")
    cloud.access.grant("north/gpu", "Key Vault Secrets User", "vault:kv-north")
    with pytest.raises(AzureError, match=r"MDW-801.*Key Vault Secrets Officer"):
        VaultSecrets("kv-north").set("node-north", b"x")


def test_a_token_that_has_expired_is_an_error_of_its_own(
    vault: VaultSecrets, cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.tokens, "life", -10.0)
    with pytest.raises(AzureError, match=r"MDW-80[03]"):
        VaultSecrets("kv-north", sign_in(interactive=False)).list()


def test_nobody_signed_in_says_so(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(AzureError, match=r"MDW-803.*Sign in"):
        VaultSecrets("kv-north", sign_in(interactive=False)).list()


@pytest.mark.parametrize("name", ["", "a", "kv_north", "https://kv-north.vault.azure.net", "-kv"])
def test_what_is_no_vault_s_name_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match=r"MDW-709"):
        VaultSecrets(name)
