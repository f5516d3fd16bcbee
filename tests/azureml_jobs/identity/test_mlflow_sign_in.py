"""MLflow's plugin asks a workspace with this process's own sign-in, and other addresses as ever."""

from __future__ import annotations

import pytest
from azure.core.credentials import AccessToken

from azureml_jobs.identity import mlflow_sign_in
from azureml_jobs.identity.mlflow_sign_in import share_sign_in

ADDRESS = (
    "azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/s/resourceGroups/fl/providers/"
    "Microsoft.MachineLearningServices/workspaces/hub"
)


class Own:
    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        return AccessToken("own", 0)


def test_the_plugin_uses_the_credential_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(mlflow_sign_in, "sign_in", Own)
    table: dict[str, object] = {}
    monkeypatch.setattr(_AzureMLServiceContextLoader, "_tracking_uri_to_service_context", table)
    assert share_sign_in(ADDRESS)
    store = MlflowClient(tracking_uri=ADDRESS)._tracking_client.store
    assert store.service_context.auth.get_token("x").token == "own"
    assert store.service_context.host_url == "https://westeurope.api.azureml.ms"
    assert store.service_context.workspace_name == "hub"


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "sqlite:///a.db", "azureml://x/y"])
def test_another_address_is_left_alone(address: str) -> None:
    assert not share_sign_in(address)
