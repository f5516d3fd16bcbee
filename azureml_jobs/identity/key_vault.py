"""A Key Vault as the `SecretStore` of `identity.secret_store`.

A secret is kept as base64 text: a vault takes text, keys are bytes. What a vault refuses is told by
`identity.azure_meanings`.

    MDW-704 deleted, and still kept
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from azureml_jobs.identity.azure_meanings import refusal
from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.identity.secret_store import checked_name
from conf.errors import IdentityError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.keyvault.secrets import SecretClient

Names = list[str]
SUFFIX: Final = "vault.azure.net"
SUFFIXES: Final = (SUFFIX, "vault.azure.cn", "vault.usgovcloudapi.net")
"""Of the public cloud, and of those of China and of the United States' government."""
READ_ROLE: Final = "Key Vault Secrets User"
WRITE_ROLE: Final = "Key Vault Secrets Officer"
CONTENT: Final = "application/x-meadow-base64"
_VAULT = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]")
_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class VaultSecrets:
    """The secrets of one vault; raises AzureError where it can't be used.

    It is named by its name, or, outside the public cloud, by its host: `kv-hub.vault.azure.cn`.
    """

    def __init__(self, vault: str, credential: TokenCredential | None = None) -> None:
        vault, _, suffix = vault.partition(".")
        self._host = f"{vault}.{suffix or SUFFIX}"
        if not _VAULT.fullmatch(vault) or (suffix and suffix not in SUFFIXES):
            hint = (
                "Give the vault's name, 3 to 24 letters, digits and '-', or its host, which ends in"
                f" {', '.join(SUFFIXES)}."
            )
            raise IdentityError(
                "MDW-709", f"{self._host[:80]!r} can't be the name of a Key Vault.", hint
            )
        self._vault = vault
        self._credential = credential
        self._client_cache: SecretClient | None = None

    def where(self, name: str) -> str:
        """See `SecretStore`."""
        return f"https://{self._host}/secrets/{vault_name(name)}"

    def get(self, name: str) -> bytes:
        """See `SecretStore`.

        Raises IdentityError MDW-700 where it is missing, MDW-702 where `meadow keys` did not write
        it.
        """
        with self._translated_errors(READ_ROLE, name):
            secret = self._client().get_secret(vault_name(name))
        try:
            return base64.b64decode(secret.value or "", validate=True)
        except (binascii.Error, ValueError):
            hint = "It was not written by `meadow keys`: make a new one."
            raise IdentityError("MDW-702", f"{self.where(name)} can't be read.", hint) from None

    def set(self, name: str, secret: bytes) -> None:
        """See `SecretStore`.

        Raises IdentityError MDW-704 where the vault still keeps a deleted secret of that name.
        """
        with self._translated_errors(WRITE_ROLE, name):
            text = base64.b64encode(secret).decode()
            self._client().set_secret(vault_name(name), text, content_type=CONTENT)

    def list(self) -> Names:
        """See `SecretStore`; secrets that others keep in the vault are left out."""
        names = []
        with self._translated_errors(READ_ROLE):
            for secret in self._client().list_properties_of_secrets():
                name = secret_name(str(secret.name))
                if secret.content_type == CONTENT and name is not None:
                    names.append(name)
        return sorted(names)

    def delete(self, name: str) -> None:
        """See `SecretStore`; the vault keeps it recoverable for as long as it is set to."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._translated_errors(WRITE_ROLE, name):
            try:
                self._client().begin_delete_secret(vault_name(name))
            except ResourceNotFoundError:
                return

    def _client(self) -> SecretClient:
        if self._client_cache is None:
            from azure.keyvault.secrets import SecretClient

            credential = self._credential or sign_in()
            url = f"https://{self._host}"
            self._client_cache = SecretClient(url, credential, retry_total=3)
        return self._client_cache

    @contextmanager
    def _translated_errors(self, role: str, name: str = "") -> Iterator[None]:
        from azure.core.exceptions import AzureError as ClientError
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        try:
            yield
        except ResourceExistsError:
            options = f"--vault-name {self._vault} --name {vault_name(name)}"
            hint = (
                f"Recover it (az keyvault secret recover {options}), or purge it for good"
                " (az keyvault secret purge)."
            )
            message = f"{self.where(name)} was deleted, and the vault still keeps it."
            raise IdentityError("MDW-704", message, hint) from None
        except ResourceNotFoundError as error:
            # Azure answers 404 for a missing secret and for a missing vault; only the text differs.
            if name and "VaultNotFound" not in str(error):
                hint = "Make it with `meadow keys`, or name another vault."
                raise IdentityError("MDW-700", f"There is no {self.where(name)}.", hint) from None
            raise refusal(error, f"the Key Vault {self._vault}", role) from error
        except ClientError as error:
            raise refusal(error, f"the Key Vault {self._vault}", role) from error


def vault_name(name: str) -> str:
    """Return a secret's name in the vault: small letters, digits and '-', unique to the secret.

    A vault allows no '_' and does not distinguish capitals from small letters. A plain name stays
    as it is. In any other, '-' and small letters replace them, and a hexadecimal number follows
    after `--`, whose bits are the positions of the replaced letters: `node-a_b` becomes
    `node-a-b--40`. Raises IdentityError MDW-709.
    """
    checked_name(name, most=80)
    if _PLAIN.fullmatch(name):
        return name
    replaced = 0
    for position, letter in enumerate(name):
        if letter == "_" or letter.isupper():
            replaced |= 1 << position
    return f"{name.lower().replace('_', '-')}--{replaced:x}"


def secret_name(vault_secret: str) -> str | None:
    """Return the name from which `vault_name` made this one; None where it did not make it."""
    plain, separator, digits = vault_secret.rpartition("--")
    try:
        if not separator:
            return vault_secret if vault_name(vault_secret) == vault_secret else None
        replaced = int(digits, 16)
        letters = []
        for position, letter in enumerate(plain):
            if replaced >> position & 1:
                letter = "_" if letter == "-" else letter.upper()
            letters.append(letter)
        name = "".join(letters)
        # `int` also reads what `vault_name` never writes, such as leading zeros.
        return name if vault_name(name) == vault_secret else None
    except (ValueError, IdentityError):
        return None
