"""How a job gets a token on its node, asked with Azure's own credentials."""

from __future__ import annotations

import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ManagedIdentityCredential

from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.rehearsal.cloud import LoopbackCloud

SCOPE = "https://vault.azure.net/.default"


def on_a_node(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch, name: str, **how: bool
) -> dict[str, str]:
    """Enter a job's node: its variables are set here."""
    monkeypatch.setattr(cloud.demands, "client_id", True)
    identity, _ = cloud.tokens.register(name)
    nodes = cloud.executor.services.nodes
    by_submitter = how.pop("by_submitter", False)
    variables = (nodes.of_submitter if by_submitter else nodes.of_compute)(identity, **how)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    return variables


def name_in(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["name"])


def test_a_cluster_gives_no_token_to_who_does_not_name_the_identity(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_node(cloud, monkeypatch, "north/gpu-north", kubernetes=False)
    with pytest.raises(ClientAuthenticationError):
        ManagedIdentityCredential().get_token(SCOPE)
    assert name_in(sign_in().get_token(SCOPE).token) == "north/gpu-north"


def test_a_cluster_knows_no_other_identity(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_node(cloud, monkeypatch, "north/gpu-north", kubernetes=False)
    other, _ = cloud.tokens.register("south/gpu-south")
    with pytest.raises(ClientAuthenticationError, match="No User Assigned identity"):
        ManagedIdentityCredential(client_id=other.client_id).get_token(SCOPE)


def test_kubernetes_asks_for_no_client_id_and_sets_none(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = on_a_node(cloud, monkeypatch, "north/aks", kubernetes=True)
    assert "DEFAULT_IDENTITY_CLIENT_ID" not in variables
    assert name_in(ManagedIdentityCredential().get_token(SCOPE).token) == "north/aks"
    assert name_in(sign_in().get_token(SCOPE).token) == "north/aks"


# azure-ai-ml 1.35 calls what msal has deprecated.
@pytest.mark.filterwarnings("ignore:Use list:DeprecationWarning")
def test_a_job_of_a_user_acts_on_the_user_s_behalf_and_as_nobody_else(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = on_a_node(cloud, monkeypatch, "owner of north", kubernetes=False, by_submitter=True)
    assert name_in(sign_in().get_token(SCOPE).token) == "owner of north"
    assert not {"MSI_ENDPOINT", "MSI_SECRET", "DEFAULT_IDENTITY_CLIENT_ID"} & variables.keys()


def test_a_user_s_identity_is_not_offered_on_kubernetes(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not on_a_node(cloud, monkeypatch, "owner of north", kubernetes=True, by_submitter=True)


def test_what_a_job_was_given_is_worth_nothing_after_its_end(
    cloud: LoopbackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = on_a_node(cloud, monkeypatch, "north/gpu-north", kubernetes=False)
    cloud.executor.services.nodes.detach(variables)
    with pytest.raises(ClientAuthenticationError, match="no identity with that secret"):
        sign_in().get_token(SCOPE)
