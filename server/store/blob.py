"""The store of `server.store.folder` in a blob container: what is put once by `If-None-Match`, what is held by leases.

A lease of the store is a small blob that says who holds it, in which epoch and until when; every change of it is
conditional on the version that was read (`If-Match`), so that of two writers one always loses. Azure's own blob
leases would need their holder's clock to renew them every minute and can't count epochs.

    MDW-510 no such name    MDW-511 not a valid name    MDW-514 may not    MDW-515 not reached
    MDW-516 the lease was lost    MDW-517 not readable    MDW-803 not signed in
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContainerClient, ExponentialRetry

from azureml_jobs.identity.key_vault import refusal
from conf.errors import CheckpointError
from server.store.folder import NAME, Clock, Data, Lease, LeaseLost, Names, StoreMissing

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

ROLE: Final = "Storage Blob Data Contributor"
A_COMMANDS_RETRIES, A_SERVERS_RETRIES = 3, 8
"""Of a call that fails: some 10 seconds where a person waits, some 4 minutes where a training would be lost.

The first ones come after seconds, not after the client's own 15, so that a lease outlives a hiccup.
"""
_TRIES: Final = 5


class BlobStore:
    """A store below a prefix of a container; raises CheckpointError where storage refuses or can't be reached.

    Where nobody is signed in any more it is AzureError MDW-803.
    """

    def __init__(
        self, container: ContainerClient, prefix: str = "", clock: Clock = time.time
    ) -> None:
        self._container, self._prefix, self._clock = (
            container,
            prefix.strip("/") + "/" if prefix else "",
            clock,
        )

    @staticmethod
    def at(url: str, credential: TokenCredential, retries: int = A_COMMANDS_RETRIES) -> BlobStore:
        """Return the store at `https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]`."""
        account, container, *prefix = url.removeprefix("https://").rstrip("/").split("/", 2)
        policy = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=retries)
        client = ContainerClient(
            f"https://{account}", container, credential=credential, retry_policy=policy
        )
        return BlobStore(client, prefix[0] if prefix else "")

    def __repr__(self) -> str:
        return f"BlobStore({self._where!r})"

    @property
    def _where(self) -> str:
        return f"{self._container.primary_endpoint.partition('?')[0]}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> Names:
        """See `Store`."""
        if prefix and not NAME.fullmatch(prefix.rstrip("/.")):
            raise _invalid(prefix)
        with self._asking("list", prefix):
            names = self._container.list_blob_names(name_starts_with=self._prefix + prefix)
            return sorted(name.removeprefix(self._prefix) for name in names)

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self._read(name)[0]

    def put_if_absent(self, name: str, data: Data, *, under: Lease | None = None) -> bool:
        """See `Store`; with `under` as in `replace`."""
        if under is not None:
            self._held(under)
        try:
            self._put(name, data, overwrite=False)
        except ResourceExistsError:
            return False
        return True

    def replace(self, name: str, data: Data, *, under: Lease | None = None) -> None:
        """See `Store`.

        With `under` the version of what is replaced is read first, then the lease is looked at, then the write is
        conditional on that version. So whoever lost the lease between the look and the write never overwrites what a
        successor wrote. What a successor has not written yet it may still overwrite, as if it had done so in time;
        the successor's own write then meets another version, looks at its lease again and wins.
        """
        if under is None:
            self._put(name, data, overwrite=True)
            return
        for _ in range(_TRIES):
            version = self._version(name)
            self._held(under)
            if self._put_over(name, data, version):
                return
        raise CheckpointError(
            "MDW-515", f"{name} in {self._where} changes all the time.", "Try again."
        )

    def delete(self, name: str) -> None:
        """See `Store`."""
        with self._asking("delete", name), suppress(ResourceNotFoundError):
            self._container.delete_blob(self._blob(name))

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """See `Store`."""
        for _ in range(_TRIES):
            last, version = self._lease(name)
            now = self._clock()
            if last and last.owner not in ("", owner) and last.expires > now:
                return None
            lease = Lease(name, owner, (last.epoch if last else 0) + 1, now + seconds)
            if self._kept(lease, version):
                return lease
        return None

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """See `Store`; a lease that expired and that nobody took is renewed."""
        version = self._held(lease)
        renewed = Lease(lease.name, lease.owner, lease.epoch, self._clock() + seconds)
        if not self._kept(renewed, version):
            self._held(lease)
            raise CheckpointError(
                "MDW-515", f"The lease {lease.name} changed while it was renewed.", "Try again."
            )
        return renewed

    def release(self, lease: Lease) -> None:
        """See `Store`; the epoch stays on record."""
        with suppress(LeaseLost):
            self._kept(Lease(lease.name, "", lease.epoch, 0.0), self._held(lease))

    def _blob(self, name: str) -> str:
        if not NAME.fullmatch(name) or len(name) > 512:
            raise _invalid(name)
        return self._prefix + name

    def _read(self, name: str) -> tuple[bytes, str]:
        """Return a blob's bytes and their version."""
        try:
            with self._asking("read", name):
                found = self._container.download_blob(self._blob(name))
                return found.readall(), str(found.properties.etag)
        except ResourceNotFoundError:
            raise StoreMissing(
                "MDW-510", f"Nothing is stored under {name} in {self._where}."
            ) from None

    def _version(self, name: str) -> str | None:
        try:
            with self._asking("read", name):
                return str(
                    self._container.get_blob_client(self._blob(name)).get_blob_properties().etag
                )
        except ResourceNotFoundError:
            return None

    def _put(self, name: str, data: Data, **condition: Any) -> None:
        with self._asking("write", name):
            self._container.upload_blob(self._blob(name), bytes(data), **condition)

    def _put_over(self, name: str, data: Data, version: str | None) -> bool:
        """Write over the version that was read (None: nothing was there); return False where somebody was faster."""
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

    def _lease(self, name: str) -> tuple[Lease | None, str | None]:
        try:
            data, version = self._read(f"{name}.lease")
            raw = json.loads(data)
            return Lease(name, str(raw["owner"]), int(raw["epoch"]), float(raw["expires"])), version
        except StoreMissing:
            return None, None
        except (ValueError, TypeError, LookupError):
            hint = f"Make sure that no orchestrator runs, then delete {self._where}/{name}.lease."
            raise CheckpointError(
                "MDW-517", f"The lease {name} in {self._where} is not readable.", hint
            ) from None

    def _kept(self, lease: Lease, version: str | None) -> bool:
        """Write a lease over the version that was read; return False where somebody else was faster."""
        return self._put_over(f"{lease.name}.lease", json.dumps(asdict(lease)).encode(), version)

    def _held(self, lease: Lease) -> str:
        """Return the version of a lease that is still held; raises LeaseLost."""
        now, version = self._lease(lease.name)
        if now is None or version is None or (now.owner, now.epoch) != (lease.owner, lease.epoch):
            by = f"{now.owner} (epoch {now.epoch})" if now and now.owner else "nobody"
            what = f"{lease.owner} lost the lease {lease.name} (epoch {lease.epoch}); it is held by {by}."
            raise LeaseLost(
                "MDW-516", what, "Only one orchestrator may write to a store: stop this one."
            )
        return version

    @contextmanager
    def _asking(self, verb: str, name: str) -> Iterator[None]:
        """Say what a refusal of storage means; what a name's presence or version decides goes up as it is."""
        try:
            yield
        except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
            raise
        except AzureError as error:
            said, where = " ".join(str(error).split())[:300], f"{name} in {self._where}"
            status = error.status_code if isinstance(error, HttpResponseError) else None
            if isinstance(error, ClientAuthenticationError) and status != 403:
                raise refusal(error, where, ROLE) from error
            if status in (401, 403):
                hint = f"Grant this identity the role '{ROLE}' at the storage account."
                raise CheckpointError("MDW-514", f"May not {verb} {where}: {said}", hint) from error
            raise CheckpointError(
                "MDW-515", f"Can't {verb} {where}: {said}", "Check storage and network."
            ) from error


def _invalid(name: str) -> CheckpointError:
    hint = (
        "Use letters, digits and _ . = - in parts separated by /, none of which starts with a dot."
    )
    return CheckpointError("MDW-511", f"{name!r} can't name a stored file.", hint)
