"""The store in a blob container: `If-None-Match` for what is put once, `If-Match` for a version.

A lease (`azureml_jobs.storage.lease`) is a small blob, which has not changed for as long as the
storage's own clock says: one clock for both sides, so that a successor of tomorrow need not watch it
first. Azure's own blob leases would say no more, and can't count epochs.

    MDW-510 no such name    MDW-511 not a valid name    MDW-514 may not    MDW-515 not reached
    MDW-516 the lease was lost    MDW-517 not readable    MDW-803 and others: who is asked, and from
    where (`identity.azure_meanings`)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContainerClient, ExponentialRetry

from azureml_jobs.identity.azure_meanings import FIREWALL, NOT_SIGNED_IN, refusal
from azureml_jobs.storage.base import (
    Clock,
    Data,
    Lease,
    Names,
    StoreMissing,
    checked_name,
    checked_prefix,
    is_name,
    too_large,
)
from azureml_jobs.storage.lease import TRIES, Leased
from conf.errors import CheckpointError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

ROUNDING_SECONDS: Final = 2.0
"""Of two times in whole seconds, by which an answer may be too old."""
ROLE: Final = "Storage Blob Data Contributor"
MISSING_ROLE: Final = "MDW-801"
NEEDS_ITS_OWNER: Final = (NOT_SIGNED_IN, "MDW-804", FIREWALL, "MDW-822")
"""Kinds that keep their own code: no other try helps, and who reads a store needs the reason."""
A_COMMANDS_RETRIES, A_SERVERS_RETRIES = 3, 8
"""Of a call that fails: some 10 seconds where a person waits, 4 minutes where a run would be lost.

The first ones come after seconds, not after the client's own 15, so that a lease outlives a hiccup.
"""


class BlobStore(Leased):
    """A store below a prefix of a container.

    Raises CheckpointError where storage refuses or can't be reached, AzureError where nobody is
    signed in any more (MDW-803), or only in another tenant, and where a firewall is in the way.
    """

    def __init__(
        self,
        container: ContainerClient,
        prefix: str = "",
        clock: Clock = time.monotonic,
        largest: int | None = None,
    ) -> None:
        """`largest` is how many bytes a blob may have where others write; None: any number."""
        self._largest = largest
        self._container = container
        self._prefix = prefix.strip("/") + "/" if prefix else ""
        super().__init__(self._where, clock)

    @staticmethod
    def at(
        url: str,
        credential: TokenCredential,
        retries: int = A_COMMANDS_RETRIES,
        largest: int | None = None,
    ) -> BlobStore:
        """Return the store at `https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]`."""
        account, container, *prefix = url.removeprefix("https://").rstrip("/").split("/", 2)
        policy = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=retries)
        client = ContainerClient(
            f"https://{account}", container, credential=credential, retry_policy=policy
        )
        return BlobStore(client, prefix[0] if prefix else "", largest=largest)

    def __repr__(self) -> str:
        return f"BlobStore({self._where!r})"

    @property
    def _where(self) -> str:
        return f"{self._container.primary_endpoint.partition('?')[0]}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        start = self._prefix + checked_prefix(prefix)
        with self._asking("list", prefix):
            names = self._container.list_blob_names(name_starts_with=start)
            inside = [name.removeprefix(self._prefix) for name in names]
        # Others may write there too, under names that nobody can ask for.
        return sorted(name for name in inside if is_name(name))

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self.read_versioned(name)[0]

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`."""
        if under is not None:
            # Between this look and the write another may take the lease. A name is put once, so
            # that nothing the
            # successor wrote is changed; a segment of a log that is put too late is found by the
            # successor as
            # one that is not its own (MDW-521).
            self._leases.check(under)
        try:
            self._put(name, data, overwrite=False)
        except ResourceExistsError:
            return False
        return True

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`."""
        if under is None:
            self._put(name, data, overwrite=True)
            return
        # The order is the fence: first the version of what is replaced, then the lease, then the
        # write over that
        # version. Whoever lost the lease after the look at it never overwrites what a successor
        # wrote, since that
        # has another version. What a successor has not written yet it may still overwrite, as if it
        # had done so
        # in time; the successor's own write then meets another version, looks at its lease again
        # and wins.
        for _ in range(TRIES):
            version = self._version(name)
            self._leases.check(under)
            if self.write_if_version(name, data, version):
                return
        raise CheckpointError(
            "MDW-515", f"{name} in {self._where} changes all the time.", "Try again."
        )

    def delete(self, name: str) -> None:
        """See `Store`."""
        with self._asking("delete", name), suppress(ResourceNotFoundError):
            self._container.delete_blob(self._blob(name))

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """See `azureml_jobs.storage.lease.Versioned`; the version is the blob's ETag."""
        try:
            with self._asking("read", name):
                found = self._container.download_blob(self._blob(name))
                if self._largest is not None and found.size > self._largest:
                    raise too_large(f"{name} in {self._where}", found.size, self._largest)
                return found.readall(), str(found.properties.etag)
        except ResourceNotFoundError:
            raise StoreMissing(
                "MDW-510", f"Nothing is stored under {name} in {self._where}."
            ) from None

    def unchanged_for(self, name: str) -> float | None:
        """See `azureml_jobs.storage.lease.Versioned`: both moments are those of one answer, and
        whole seconds.
        """
        said: list[str] = []

        def note(answer: Any) -> None:
            said.append(str(answer.http_response.headers.get("Date", "")))

        try:
            with self._asking("read", name):
                blob = self._container.get_blob_client(self._blob(name))
                changed = blob.get_blob_properties(raw_response_hook=note).last_modified
            return (parsedate_to_datetime(said[-1]) - changed).total_seconds() - ROUNDING_SECONDS
        except (ResourceNotFoundError, ValueError, TypeError, IndexError):
            return None

    def write_if_version(self, name: str, data: Data, version: str | None) -> bool:
        """See `azureml_jobs.storage.lease.Versioned`."""
        condition: dict[str, Any] = {"overwrite": False}
        if version is not None:
            condition = {
                "overwrite": True,
                "etag": version,
                "match_condition": MatchConditions.IfNotModified,
            }
        try:
            self._put(name, data, **condition)
        except (ResourceExistsError, ResourceModifiedError):
            return False
        return True

    def _blob(self, name: str) -> str:
        return self._prefix + checked_name(name)

    def _version(self, name: str) -> str | None:
        try:
            with self._asking("read", name):
                blob = self._container.get_blob_client(self._blob(name))
                return str(blob.get_blob_properties().etag)
        except ResourceNotFoundError:
            return None

    def _put(self, name: str, data: Data, **condition: Any) -> None:
        with self._asking("write", name):
            self._container.upload_blob(self._blob(name), bytes(data), **condition)

    @contextmanager
    def _asking(self, verb: str, name: str) -> Iterator[None]:
        """Say what a refusal of storage means.

        What a name's presence or version decides goes up as it is.
        """
        try:
            yield
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                hint = "Create it: docs/azure/orchestrator.md names the containers of a federation."
                message = f"There is no container for {self._where}."
                raise CheckpointError("MDW-515", message, hint) from error
            raise
        except (ResourceExistsError, ResourceModifiedError):
            raise
        except AzureError as error:
            refused = refusal(error, f"{name} in {self._where}", ROLE)
            if refused.code in NEEDS_ITS_OWNER:
                raise refused from error
            code = "MDW-514" if refused.code == MISSING_ROLE else "MDW-515"
            message = f"Can't {verb}. {refused.message}"
            raise CheckpointError(code, message, refused.hint) from error
