"""A tenant and a subscription for each owner: who comes with another tenant's token is told so."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from azure.ai.ml import MLClient
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient

from azureml_jobs.identity import azure_sign_in
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.rehearsal.cloud import LoopbackCloud

NORTH = "22222222-2222-2222-2222-222222222222"
NORTHS = str(uuid.UUID(int=2))


@pytest.fixture
def north(cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch) -> LoopbackCloud:
    """The cloud with a workspace, a vault and an account of north's own tenant; we are of ours."""
    monkeypatch.setattr(cloud.tenants, "_by_resource", {})
    cloud.workspace("north", account="north", subscription=NORTHS, tenant=NORTH)
    cloud.tenants.put("vault:kv-north", NORTH)
    for name in ("AzureML Data Scientist", "Reader"):
        cloud.access.grant("engineer", name, "workspace:north")
    cloud.access.grant("engineer", "Key Vault Secrets Officer", "vault:kv-north")
    cloud.access.grant("engineer", "Storage Blob Data Contributor", "storage:north")
    for key, value in cloud.signed_in_as("engineer").items():
        monkeypatch.setenv(key, value)
    return cloud


def test_the_resource_manager_names_the_authority_to_ask(north: LoopbackCloud) -> None:
    ml = MLClient(DefaultAzureCredential(), NORTHS, "meadow", "north", enable_telemetry=False)
    with pytest.raises(HttpResponseError, match="InvalidAuthenticationTokenTenant") as told:
        ml.workspaces.get("north")
    answer: Any = told.value.response
    assert answer.status_code == 401
    assert f"https://login.windows.net/{NORTH}" in answer.headers["WWW-Authenticate"]
    # Before any role is looked at.
    assert north.request_log.resources_of("engineer") == set()


def test_storage_and_vault_refuse_it_too(north: LoopbackCloud) -> None:
    container = ContainerClient.from_container_url(
        "https://north.blob.core.windows.net/data", DefaultAzureCredential(), retry_total=0
    )
    with pytest.raises(ClientAuthenticationError):
        list(container.list_blob_names())
    with pytest.raises(ClientAuthenticationError, match=NORTH):
        SecretClient("https://kv-north.vault.azure.net", DefaultAzureCredential()).get_secret("a")
    assert north.request_log.resources_of("engineer") == set()


def test_a_vault_of_another_cloud_with_the_same_name_may_be_in_another_tenant(
    north: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault's client remembers a tenant for each name, as long as its process lives."""
    name = "kv-north"
    monkeypatch.setattr(north.tenants, "_by_resource", {})
    assert VaultSecrets(name).list() == []
    north.tenants.put(f"vault:{name}", NORTH)
    # A name of its own: the cloud's identities are those of all tests.
    owner = "owner of a vault in another cloud"
    north.tokens.register(owner, NORTH)
    north.access.grant(owner, "Key Vault Secrets Officer", f"vault:{name}")
    for key, value in north.signed_in_as(owner).items():
        monkeypatch.setenv(key, value)
    azure_sign_in.forget()
    assert VaultSecrets(name).list() == []


def test_a_vault_tells_an_identity_that_can_ask_no_other_tenant_which_issuer_it_expects(
    north: LoopbackCloud,
) -> None:
    engineer, _ = north.tokens.register("engineer")

    class AsOnANode:
        """A managed identity: it has one tenant, whatever a service asks for."""

        def get_token(self, *scopes: str, **_: object) -> object:
            from azure.core.credentials import AccessToken

            return AccessToken(north.tokens.issue(engineer, "https://vault.azure.net"), 2**31)

    with pytest.raises(HttpResponseError, match="AKV10032: Invalid issuer"):
        SecretClient("https://kv-north.vault.azure.net", AsOnANode()).get_secret("a")  # type: ignore[arg-type]


def test_nobody_signs_in_to_a_tenant_that_does_not_know_them(north: LoopbackCloud) -> None:
    identity, secret = north.tokens.register("engineer")
    credential = ClientSecretCredential(NORTH, identity.client_id, secret)
    with pytest.raises(ClientAuthenticationError, match="AADSTS700016"):
        credential.get_token("https://management.azure.com/.default")


def test_who_is_of_the_tenant_is_let_in(
    north: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "owner in another tenant"
    north.tokens.register(name, NORTH)
    north.access.grant(name, "Reader", "workspace:north")
    for key, value in north.signed_in_as(name).items():
        monkeypatch.setenv(key, value)
    ml = MLClient(DefaultAzureCredential(), NORTHS, "meadow", "north", enable_telemetry=False)
    assert ml.workspaces.get("north").name == "north"
