"""MLflow's plugin for Azure ML asks with the same credential as all else in this process.

Left to itself it makes a chain of its own, which passes no client id, knows nothing of the user on
whose behalf a job runs, and ends at a browser. It keeps the credential of each address in a table;
ours is written there before it looks.
"""

from __future__ import annotations

import re
from urllib.parse import urlparse

from azureml_jobs.identity.azure_sign_in import sign_in

SCHEME = "azureml"
_ID = (
    "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}"
)
_WORKSPACE = re.compile(
    r".*/subscriptions/([^/]+)/resourceGroups/([^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/([^/?]+)",
    re.IGNORECASE,
)


def address_of(subscription: str, group: str, name: str) -> str:
    """Return a workspace's id as an address without a host, which `looked_up` completes."""
    return f"{SCHEME}://{_ID.format(subscription, group, name)}"


def looked_up(tracking_uri: str) -> str:
    """Return a tracking address with its host, asked of the workspace where it has none.

    Raises what Azure ML's SDK raises.
    """
    address = urlparse(tracking_uri)
    workspace = _WORKSPACE.match(address.path)
    if address.scheme != SCHEME or address.netloc or workspace is None:
        return tracking_uri
    from azure.ai.ml import MLClient

    subscription, group, name = workspace.groups()
    client = MLClient(
        sign_in(), subscription, group, name, enable_telemetry=False, show_progress=False
    )
    return str(client.workspaces.get(name).mlflow_tracking_uri)


def share_sign_in(tracking_uri: str) -> bool:
    """Have MLflow ask a workspace with this process's sign-in; return False for any other address.

    Called before the first client of that address is made.
    """
    address = urlparse(tracking_uri)
    workspace = _WORKSPACE.match(address.path)
    if address.scheme != SCHEME or workspace is None:
        return False
    from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
    from azureml.mlflow._internal.utils import ServiceContext

    subscription, group, name = workspace.groups()
    context = ServiceContext(
        host_url=f"https://{address.netloc}",
        subscription_id=subscription,
        workspace_name=name,
        resource_group_name=group,
        auth=sign_in(),
    )
    _AzureMLServiceContextLoader.add_service_context(tracking_uri, context)
    return True
