"""The sign-in to Azure: one credential of this process for the vault, the store, the workspaces and
MLflow.

A person or a service signs in where `az` or its environment says; a job of Azure ML as the identity
that its job was given, and as nothing else. On a compute cluster the endpoint of that identity
demands the client id that Azure sets beside it, on Kubernetes it takes none (Microsoft's "Set up
service authentication", azure-sdk-for-python #30427). A job with `identity: user` asks on behalf of
the user who submitted it.

    MDW-803 not signed in
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

USER: Final = "user"
MANAGED: Final = "managed"
NOBODY: Final = "nobody"
"""As whom a process signs in: the user who submitted this job; the job's own identity; neither,
because it is no job."""
VARIABLE: Final = "MEADOW_IDENTITY"
"""Tells a job which identity it was submitted with: USER or MANAGED."""
CLIENT_ID: Final = "DEFAULT_IDENTITY_CLIENT_ID"
"""Set by Azure on compute clusters, of the identity that the job has; not on Kubernetes."""
MANAGEMENT: Final = {
    "azurecloud": "management.azure.com",
    "azurechinacloud": "management.chinacloudapi.cn",
    "azureusgovernment": "management.usgovcloudapi.net",
}
"""Resource Manager, by the name of a cloud in small letters."""
REMEMBERED: Final = 20.0
"""Seconds for which a failed sign-in is not tried again."""
LONGEST: Final = 400
"""Characters of the line that says why a sign-in failed."""
_NOT_THERE: Final = ("unavailable", "not found on path", "not fully configured", "az login")
"""Words of azure-identity about a way to sign in that this machine does not have."""
_OFF: Final = ("", "0", "false")
_PREFIXES: Final = ("AZURE", "MSI_", "OBO_", "IDENTITY_", "IMDS_", CLIENT_ID, VARIABLE)
"""Of the variables that decide as whom a process signs in."""


def identity_of(variables: Mapping[str, str]) -> str:
    """Return as whom a process with these variables signs in: USER, MANAGED or NOBODY.

    What the job was submitted with comes first; Azure's own mark is for jobs that others submit.
    """
    if variables.get(VARIABLE) == USER:
        return USER
    if VARIABLE not in variables and variables.get("AZUREML_OBO_ENABLED", "").lower() not in _OFF:
        return USER
    if variables.get("MSI_ENDPOINT") and variables.get("MSI_SECRET"):
        return MANAGED
    return NOBODY


def sign_in(interactive: bool | None = None) -> TokenCredential:
    """Return the credential for Azure.

    A job's is its identity. Otherwise: environment, workload or managed identity, then Azure CLI; a
    browser comes last, and only on a terminal (or with `interactive`). All that this process asks
    shares one, so that a sign-in that fails is waited for once.
    """
    if interactive is None:
        interactive = sys.stdin.isatty()
    own = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    return _shared(tuple(sorted(own.items())), interactive)


class SharedCredential:
    """One credential for all that a process asks, from any thread.

    A sign-in that failed is not tried again for `REMEMBERED` seconds: a command asks several
    services, and each try may wait for what is not there. Raises ClientAuthenticationError, with
    one line in the place of a list of every way that was tried.
    """

    def __init__(
        self,
        credential: TokenCredential,
        identity: str = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credential = credential
        self._identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._until = 0.0

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token for these scopes; see `azure.core.credentials.TokenCredential`."""
        from azure.core.exceptions import ClientAuthenticationError

        with self._lock:
            if self._failure is not None and self._clock() < self._until:
                raise self._failure
            try:
                token = self._credential.get_token(*scopes, **options)
            except ClientAuthenticationError as error:
                line = failed_sign_in(str(error), self._identity)
                self._failure = ClientAuthenticationError(message=line)
                self._until = self._clock() + REMEMBERED
                raise self._failure from error
            self._failure = None
            return token


def failed_sign_in(said: str, identity: str) -> str:
    """Return in one line why nobody is signed in, of what azure-identity says in twenty.

    Its list names each way that was tried; only a way that was there and failed is worth a word.
    """
    tried = [line.strip() for line in said.splitlines() if line.startswith("\t")]
    lines = tried or [said.strip().partition("\n")[0]]
    failed = [line for line in lines if not any(word in line for word in _NOT_THERE)]
    if identity == USER:
        begin = "the job's endpoint gave no token on behalf of the user who submitted it"
    elif identity == MANAGED:
        begin = "the job's endpoint gave no token of its managed identity"
    else:
        begin = "no identity was found: no az login, no service principal, no managed identity"
        if failed:
            begin = "the sign-in failed"
    return ": ".join([begin, *failed[:1]])[:LONGEST]


@lru_cache(maxsize=8)
def _shared(variables: tuple[tuple[str, str], ...], interactive: bool) -> TokenCredential:
    # azure-identity logs every way to sign in that fails; its final error lists them all anyway.
    for name in ("azure.identity", "azure.core.pipeline.policies.http_logging_policy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    of_process = dict(variables)
    identity = identity_of(of_process)
    if identity == USER:
        from azure.ai.ml.identity import AzureMLOnBehalfOfCredential

        return SharedCredential(AzureMLOnBehalfOfCredential(), USER)
    if identity == MANAGED:
        from azure.identity import ManagedIdentityCredential

        own = ManagedIdentityCredential(client_id=of_process.get(CLIENT_ID))
        return SharedCredential(own, MANAGED)
    from azure.identity import DefaultAzureCredential

    return SharedCredential(
        DefaultAzureCredential(
            exclude_interactive_browser_credential=not interactive,
            exclude_visual_studio_code_credential=True,
            exclude_shared_token_cache_credential=True,
            exclude_powershell_credential=True,
            exclude_developer_cli_credential=True,
        )
    )


def check_signed_in() -> None:
    """Raise ClientAuthenticationError where this process has no token for Azure; it asks for one of
    Resource Manager, which is the cloud's own.
    """
    cloud = os.environ.get("AZUREML_CURRENT_CLOUD", "")
    host = MANAGEMENT.get(cloud.lower(), MANAGEMENT["azurecloud"])
    sign_in().get_token(f"https://{host}/.default")


def forget() -> None:
    """Let the next sign-in begin anew: another one has signed in, in this same process."""
    _shared.cache_clear()
    # The vault's client remembers for a whole process which tenant a vault's name is in.
    challenges = sys.modules.get("azure.keyvault.secrets._shared.http_challenge_cache")
    if challenges is not None:
        challenges.clear()
