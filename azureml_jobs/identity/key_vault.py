"""A Key Vault as the `SecretStore` of `azureml_jobs.identity.secret_store`, and who signs in to Azure here.

A secret is kept as base64 text: a vault takes text, keys are bytes.

    MDW-704 deleted, and still kept    MDW-800 Azure can't be reached    MDW-801 the role is missing
    MDW-803 not signed in
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from azureml_jobs.identity.secret_store import checked_name
from conf.errors import AzureError, IdentityError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.keyvault.secrets import SecretClient

Names = list[str]
SUFFIX: Final = "vault.azure.net"
READ_ROLE, WRITE_ROLE = "Key Vault Secrets User", "Key Vault Secrets Officer"
CONTENT: Final = "application/x-meadow-base64"
_VAULT = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]")
_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def sign_in(interactive: bool | None = None) -> TokenCredential:
    """Return who we are for Azure: environment, workload or managed identity, then the Azure CLI.

    A browser comes last, and only on a terminal (or with `interactive`). In a job that runs with its submitter's
    identity it is the submitter.
    """
    from azure.identity import DefaultAzureCredential

    for name in ("azure.identity", "azure.core.pipeline.policies.http_logging_policy"):
        logging.getLogger(name).setLevel(
            logging.ERROR
        )  # what is tried in vain is told in the error
    if "AZUREML_OBO_ENABLED" in os.environ:
        from azure.ai.ml.identity import AzureMLOnBehalfOfCredential

        on_behalf: TokenCredential = AzureMLOnBehalfOfCredential()
        return on_behalf
    browser = sys.stdin.isatty() if interactive is None else interactive
    return DefaultAzureCredential(
        managed_identity_client_id=os.environ.get("DEFAULT_IDENTITY_CLIENT_ID"),
        exclude_interactive_browser_credential=not browser,
        exclude_visual_studio_code_credential=True,
        exclude_shared_token_cache_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
    )


class VaultSecrets:
    """The secrets of one vault, by its name; raises AzureError where it can't be reached or used."""

    def __init__(self, vault: str, credential: TokenCredential | None = None) -> None:
        if not _VAULT.fullmatch(vault):
            hint = "Give the vault's name: 3 to 24 letters, digits and '-'."
            raise IdentityError(
                "MDW-709", f"{vault[:80]!r} can't be the name of a Key Vault.", hint
            )
        self._vault, self._credential = vault, credential
        self._made: SecretClient | None = None

    def where(self, name: str) -> str:
        """See `SecretStore`."""
        return f"https://{self._vault}.{SUFFIX}/secrets/{vault_name(name)}"

    def get(self, name: str) -> bytes:
        """See `SecretStore`; raises IdentityError MDW-700 where it is missing, MDW-702 where it is not ours."""
        with self._asking(READ_ROLE, name):
            found = self._client().get_secret(vault_name(name))
        try:
            return base64.b64decode(found.value or "", validate=True)
        except (binascii.Error, ValueError):
            hint = "It was not written by `meadow keys`: make it anew."
            raise IdentityError("MDW-702", f"{self.where(name)} can't be read.", hint) from None

    def set(self, name: str, secret: bytes) -> None:
        """See `SecretStore`; raises IdentityError MDW-704 where the vault still keeps a deleted one of that name."""
        with self._asking(WRITE_ROLE, name):
            text = base64.b64encode(secret).decode()
            self._client().set_secret(vault_name(name), text, content_type=CONTENT)

    def list(self) -> Names:
        """See `SecretStore`; what others keep in the vault is passed over."""
        with self._asking(READ_ROLE):
            found = self._client().list_properties_of_secrets()
            names = (own_name(str(one.name)) for one in found if one.content_type == CONTENT)
            return sorted(name for name in names if name is not None)

    def delete(self, name: str) -> None:
        """See `SecretStore`; the vault keeps it recoverable for as long as it is set to."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._asking(WRITE_ROLE, name):
            try:
                self._client().begin_delete_secret(vault_name(name))
            except ResourceNotFoundError:
                return

    def _client(self) -> SecretClient:
        if self._made is None:
            from azure.keyvault.secrets import SecretClient

            credential = self._credential or sign_in()
            self._made = SecretClient(f"https://{self._vault}.{SUFFIX}", credential, retry_total=3)
        return self._made

    @contextmanager
    def _asking(self, role: str, name: str = "") -> Iterator[None]:
        from azure.core.exceptions import AzureError as ClientError
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        try:
            yield
        except ResourceExistsError:
            which = f"--vault-name {self._vault} --name {vault_name(name)}"
            hint = f"Recover it (az keyvault secret recover {which}), or purge it for good (az keyvault secret purge)."
            what = f"{self.where(name)} was deleted, and the vault still keeps it."
            raise IdentityError("MDW-704", what, hint) from None
        except ResourceNotFoundError as error:
            if name and "VaultNotFound" not in str(error):
                hint = "Make it with `meadow keys`, or name another vault."
                raise IdentityError("MDW-700", f"There is no {self.where(name)}.", hint) from None
            raise refusal(error, f"the Key Vault {self._vault}", role) from error
        except ClientError as error:
            raise refusal(error, f"the Key Vault {self._vault}", role) from error


def refusal(error: Exception, where: str, role: str) -> AzureError:
    """Return what a failed call to Azure means: not signed in, a role that is missing, or not reached.

    `role` is the one that would have allowed the call; the service's own first line names the identity.
    """
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    said = " ".join(str(error).split())[:400]
    if isinstance(error, ClientAuthenticationError):
        hint = "Sign in (`az login`), or give the job an identity; a token that has expired is asked for again."
        return AzureError("MDW-803", f"Not signed in for {where}: {said}", hint)
    if isinstance(error, HttpResponseError) and error.status_code == 403:
        hint = f"Grant that identity the role '{role}' there, and wait some minutes."
        return AzureError("MDW-801", f"This identity may not use {where}: {said}", hint)
    return AzureError(
        "MDW-800",
        f"Can't reach {where}: {said}",
        "Check its name, its network rules and this network.",
    )


def vault_name(name: str) -> str:
    """Return a secret's name as the vault knows it: small letters, digits and '-', no two of ours the same.

    A vault knows no '_' and takes capitals for small letters. A plain name stays as it is. Any other gets '-' and
    small letters instead, and behind a last `--` the hexadecimal number whose bits are the places where that was
    done: `node-a_b` is `node-a-b--40`. Raises IdentityError MDW-709.
    """
    checked_name(name, most=80)
    if _PLAIN.fullmatch(name):
        return name
    places = sum(1 << i for i, letter in enumerate(name) if letter == "_" or letter.isupper())
    return f"{name.lower().replace('_', '-')}--{places:x}"


def own_name(known: str) -> str | None:
    """Return the name of which `vault_name` made this one; None where it made none such."""
    plain, mark, places = known.rpartition("--")
    try:
        bits = int(places, 16) if mark else 0
        name = "".join(
            _other(letter) if bits >> i & 1 else letter for i, letter in enumerate(plain or known)
        )
        return name if vault_name(name) == known else None
    except (ValueError, IdentityError):
        return None


def _other(letter: str) -> str:
    return "_" if letter == "-" else letter.upper()
