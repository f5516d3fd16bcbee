"""How silos find the orchestrator: a fixed address, a shared folder, or the tags of an MLflow run.

A rendezvous says only where the server is, never whom to trust, and anybody may be able to write to
it. So a record is signed by the key of the orchestrator's certificate, which the CA vouches for, and
any other is passed over. A record may be old all the same, played again by a stranger: it leads to an
address, where the server has to prove itself anew (`client.node.server_finder` tries one after the
other), and it ends nothing: that a federation is over, a silo believes the server alone.

Each start of an orchestrator has a higher epoch and its own record, so that one that seemed dead and
comes back can't hide its successor.

Beside the address it carries to each silo the certificate by which it was admitted: public, signed
by the CA, and so as good from here as from anywhere.

    MDW-720 a record that is not signed by an orchestrator of this CA
    MDW-731 the rendezvous can't be used    MDW-732 not an address
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509

from azureml_jobs.identity.azure_meanings import refusal
from azureml_jobs.identity.mlflow_sign_in import looked_up, share_sign_in
from azureml_jobs.identity.signatures import HeadSigner, head_key, is_signed, sign
from conf.errors import IdentityError, MeadowError
from conf.files.plain import opened_plain
from conf.files.whole import make_folder, write_atomic

log = logging.getLogger(__name__)

MAX_BYTES: Final = 16384
"""Of a record; one with its certificate has about 1,700."""
MOST_RECORDS: Final = 200
"""Files of a folder that are looked at: strangers may put more there than a silo has time to read."""
PURPOSE: Final = "rendezvous record"
"""Of the signature, so that nothing else that this key signs is a record."""
ADMISSION_BYTES: Final = 8192
SEE_ROLE: Final = "Reader"
"""At the orchestrator's workspace, for a silo that looks into its MLflow."""

OPEN: Final = "open"
OVER: Final = "over"
"""States of a record; `over` tells people why nobody is there, and no silo goes home for it."""

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{1,5})")
_NO_RECORD = (ValueError, TypeError, LookupError, OverflowError, IdentityError)
"""What values that are no record raise; OverflowError is an epoch of 1e999."""
_FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Record:
    """Where a server is: `host:port`, the epoch of its start, its state.

    `beat` counts the publications of this start, so that a record that rises while one watches is
    of a server that runs; `heartbeat` is the server's own clock (s since 1970), for people.
    """

    address: str
    epoch: int = 0
    heartbeat: float = 0.0
    state: str = OPEN
    beat: int = 0

    def statement(self, federation: str) -> bytes:
        """Return what is signed."""
        return json.dumps(asdict(self) | {"federation": federation}, sort_keys=True).encode()


@dataclass(frozen=True)
class SignedRecord:
    """A record, of which federation it is, and who says so: a certificate (PEM) and its key's
    signature.
    """

    record: Record
    federation: str = ""
    certificate: str = ""
    signature: str = ""

    def checked(
        self, authorities: Sequence[x509.Certificate], federation: str | None, now: datetime
    ) -> Record:
        """Return the record, once an orchestrator that one of these CAs vouches for has signed it.

        `federation` is the silo's own; None: it knows no name. Raises IdentityError MDW-720.
        """
        where = f"The record of {self.record.address}"
        try:
            public = head_key(self.certificate, authorities, "its certificate")
        except MeadowError as error:
            raise _unsigned(where, error.message.rstrip(".")) from None
        statement = self.record.statement(self.federation)
        if not is_signed(public, PURPOSE, statement, self.signature):
            raise _unsigned(where, "its signature is wrong")
        if federation is not None and federation != self.federation:
            raise _unsigned(where, f"it is of the federation {self.federation[:64]!r}")
        certificate = x509.load_pem_x509_certificate(self.certificate.encode())
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _unsigned(where, "its certificate is not valid now")
        return self.record


@dataclass(frozen=True)
class RecordSigner:
    """Signs a federation's records with the key that the orchestrator's port shows to its silos."""

    signer: HeadSigner
    federation: str

    def signed(self, record: Record) -> SignedRecord:
        """Return a record with its signature; raises IdentityError MDW-732 for a wrong address."""
        checked_address(record.address)
        signature = sign(self.signer.key, PURPOSE, record.statement(self.federation))
        return SignedRecord(record, self.federation, self.signer.certificate, signature)


def _unsigned(where: str, why: str) -> IdentityError:
    hint = "If it is the right orchestrator, compare the CA's certificate with its owner."
    return IdentityError("MDW-720", f"{where} is passed over: {why}.", hint)


class Rendezvous(Protocol):
    """Where a server publishes its address and silos look for it."""

    def publish(self, signed: SignedRecord) -> None:
        """Publish the server of this epoch; called again as heartbeat.

        Raises IdentityError MDW-731.
        """

    def publish_admission(self, key: str, certificate: str) -> None:
        """Publish the admission (PEM) of the silo whose key has this name (`admission_name`).

        Raises IdentityError MDW-731.
        """

    def admission(self, key: str) -> bytes | None:
        """Return the admission of a key, None where none is published or it is too long.

        Nothing of it is to be believed before the CA's signature was checked. Raises IdentityError
        MDW-731.
        """

    def publish_succession(self, name: str, text: str) -> None:
        """Publish that one CA follows another (`identity.succession`).

        Raises IdentityError MDW-731.
        """

    def successions(self) -> list[str]:
        """Return what was published of that, whoever wrote it; raises IdentityError MDW-731."""

    def seen(self) -> list[SignedRecord]:
        """Return every published record, whoever wrote it."""


def checked_address(address: str) -> str:
    """Return the address if it has the form `host:port`; raises IdentityError MDW-732."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[3]) < 65536:
        hint = "Write HOST:PORT, with an IPv6 address in brackets and without a scheme."
        raise IdentityError("MDW-732", f"{address[:80]!r} is not the address of a server.", hint)
    return address


def admission_name(line: str) -> str:
    """Return the name under which the admission of a public key (OpenSSH's line) is published."""
    return hashlib.sha256(line.encode()).hexdigest()[:32]


class StaticRendezvous:
    """One address that does not change, from the silo's own configuration."""

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)

    def not_answering(self) -> tuple[str, str]:
        """Return what there is to say where nobody answers, and what to do about it."""
        hint = "Start the orchestrator; let this network reach its port."
        return f"nobody answers at {self.address}", hint

    def publish(self, signed: SignedRecord) -> None:
        """Do nothing: silos have the address in their configuration."""

    def publish_admission(self, key: str, certificate: str) -> None:
        """Do nothing: silos have the file that `meadow keys admit` wrote."""

    def admission(self, key: str) -> bytes | None:
        """See `Rendezvous`: an address has none."""
        return None

    def publish_succession(self, name: str, text: str) -> None:
        """Do nothing: silos have the CA's file."""

    def successions(self) -> list[str]:
        """See `Rendezvous`: an address has none."""
        return []

    def seen(self) -> list[SignedRecord]:
        """Return the address, which nobody has signed."""
        return [SignedRecord(Record(self.address))]


class RelayRendezvous(StaticRendezvous):
    """A relay at which the silo meets its orchestrator: its owner wrote down one name."""

    def __init__(self, url: str, trouble: Callable[[], MeadowError | None]) -> None:
        """`trouble` says why the last connection by the relay failed."""
        self.address = url
        self._trouble = trouble

    def not_answering(self) -> tuple[str, str]:
        """See `StaticRendezvous`."""
        trouble = self._trouble()
        if trouble is None:
            return super().not_answering()
        return f"{trouble.code} {trouble.message.rstrip('.')}", trouble.hint


class FolderRendezvous:
    """A folder that both sides see, with one small file per epoch, each replaced atomically."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def publish(self, signed: SignedRecord) -> None:
        """See `Rendezvous`; older epochs' files are removed."""
        record = signed.record
        checked_address(record.address)
        path = self._folder / f"server-{record.epoch:09d}.json"
        try:
            make_folder(self._folder)
            write_atomic(path, json.dumps(asdict(record) | evidence(signed)))
            for old in self._folder.glob("server-*.json"):
                if old.name < path.name:
                    old.unlink(missing_ok=True)
        except OSError as error:
            hint = "Name a folder that this user may write."
            raise IdentityError(
                "MDW-731", f"Can't write {path}: {error.strerror}.", hint
            ) from error

    def publish_admission(self, key: str, certificate: str) -> None:
        """See `Rendezvous`."""
        path = self._folder / f"admission-{key}.pem"
        try:
            make_folder(self._folder)
            write_atomic(path, certificate)
        except OSError as error:
            hint = "Name a folder that this user may write."
            raise IdentityError(
                "MDW-731", f"Can't write {path}: {error.strerror}.", hint
            ) from error

    def admission(self, key: str) -> bytes | None:
        """See `Rendezvous`."""
        path = self._folder / f"admission-{key}.pem"
        try:
            content = _small_file(path)
        except OSError:
            # There is none yet, or the folder can't be read now: asked again.
            return None
        return content if len(content) <= ADMISSION_BYTES else None

    def publish_succession(self, name: str, text: str) -> None:
        """See `Rendezvous`."""
        path = self._folder / f"successor-{name}.json"
        try:
            make_folder(self._folder)
            write_atomic(path, text)
        except OSError as error:
            hint = "Name a folder that this user may write."
            raise IdentityError(
                "MDW-731", f"Can't write {path}: {error.strerror}.", hint
            ) from error

    def successions(self) -> list[str]:
        """See `Rendezvous`."""
        found = []
        for path in sorted(self._folder.glob("successor-*.json"))[:MOST_RECORDS]:
            with suppress(OSError):
                found.append(_small_file(path).decode("utf-8", "replace"))
        return found

    def seen(self) -> list[SignedRecord]:
        """See `Rendezvous`; a file that is not a record is logged and left out."""
        records = []
        # The least epochs first, so that thousands of a stranger's with high ones don't come before.
        for path in sorted(self._folder.glob("server-*.json"), key=_by_epoch)[:MOST_RECORDS]:
            # The file may have been removed since, or be another user's.
            with suppress(OSError):
                record = parsed(_small_file(path), str(path))
                if record is not None:
                    records.append(record)
        return records


def _by_epoch(path: Path) -> tuple[int, str]:
    return len(path.name), path.name


def _small_file(path: Path) -> bytes:
    """Return the beginning of a plain file, and nothing of a link, a pipe or a device."""
    with opened_plain(path) as (file, _):
        return file.read(MAX_BYTES + 1)


def parsed(text: bytes, where: str) -> SignedRecord | None:
    """Return the record that a file or blob holds; one that holds none is logged."""
    try:
        if len(text) > MAX_BYTES:
            raise ValueError("too long")
        return _record(json.loads(text))
    except (*_NO_RECORD, RecursionError) as error:
        log.warning("%s is not a record of a server: %s", where, error)
        return None


def _record(raw: Mapping[str, Any]) -> SignedRecord:
    """Return the record that values or tags hold.

    Raises one of `_NO_RECORD` for anything else.
    """
    if raw["state"] not in (OPEN, OVER):
        raise ValueError(f"state {str(raw['state'])[:20]!r}")
    record = Record(
        checked_address(str(raw["address"])),
        int(raw["epoch"]),
        float(raw["heartbeat"]),
        str(raw["state"]),
        int(raw["beat"]),
    )
    texts = [str(raw[name]) for name in ("federation", "certificate", "signature")]
    if any(len(text) > MAX_BYTES for text in texts):
        raise ValueError("too long")
    return SignedRecord(record, *texts)


def evidence(signed: SignedRecord) -> dict[str, str]:
    """Return who says so, as plain values beside those of the record."""
    return {
        "federation": signed.federation,
        "certificate": signed.certificate,
        "signature": signed.signature,
    }


class MlflowRendezvous:
    """Tags of an MLflow run: each start of a server has its run; silos search their federation's.

    `run_id` names one run: a server's own, which it needs to publish, or the only one that a silo
    reads. What was seen is good for `look_seconds`, so that a silo's questions are one call. Raises
    IdentityError MDW-731 where the tracking server can't be reached, refuses, or has no such run.
    """

    PREFIX: Final = "meadow_server_"
    ADMISSION: Final = "meadow_admission_"
    SUCCESSOR: Final = "meadow_successor_"
    RUNS: Final = 20
    """The most recent runs are enough: the live server was started after its predecessors."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        federation: str,
        run_id: str | None = None,
        look_seconds: float = 0.0,
    ) -> None:
        if not _FEDERATION.fullmatch(federation):
            hint = "Use letters, digits, '.', '_' and '-'."
            raise IdentityError(
                "MDW-731", f"{federation[:80]!r} can't name a federation in MLflow.", hint
            )
        self._uri = tracking_uri
        self._experiment = experiment
        self._federation = federation
        self._run_id = run_id
        self._client: Any = None
        self._look_seconds = look_seconds
        self._looked = float("-inf")
        self._lately: Any = []

    def publish(self, signed: SignedRecord) -> None:
        """See `Rendezvous`; all tags in one call."""
        from mlflow.entities import RunTag

        if self._run_id is None:
            raise IdentityError(
                "MDW-731", "No MLflow run to publish in.", "Only an orchestrator publishes."
            )
        checked_address(signed.record.address)
        values = asdict(signed.record) | evidence(signed) | {"federation": self._federation}
        make_tag: Any = RunTag  # MLflow leaves it without annotations
        tags = [make_tag(self.PREFIX + key, str(value)) for key, value in values.items()]
        self._call("publish", lambda client: client.log_batch(self._run_id, tags=tags))

    def publish_admission(self, key: str, certificate: str) -> None:
        """See `Rendezvous`; a tag holds it without the two lines around it."""
        body = "".join(certificate.split("-----")[2].split())
        tag = self.ADMISSION + key
        self._call("publish", lambda client: client.set_tag(self._run_id, tag, body))

    def admission(self, key: str) -> bytes | None:
        """See `Rendezvous`; the most recent run that has one decides."""
        for run in self._look():
            body = run.data.tags.get(self.ADMISSION + key, "")
            if 0 < len(body) <= ADMISSION_BYTES:
                lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
                text = f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
                return text.encode("ascii", "replace")
        return None

    def publish_succession(self, name: str, text: str) -> None:
        """See `Rendezvous`."""
        tag = self.SUCCESSOR + name
        self._call("publish", lambda client: client.set_tag(self._run_id, tag, text))

    def successions(self) -> list[str]:
        """See `Rendezvous`."""
        found = []
        for run in self._look():
            for name, text in run.data.tags.items():
                if name.startswith(self.SUCCESSOR):
                    found.append(text)
        return found

    def seen(self) -> list[SignedRecord]:
        """See `Rendezvous`; a run whose tags are not a record is logged and left out."""
        records = []
        for run in self._look():
            prefix = self.PREFIX
            tags = {name.removeprefix(prefix): value for name, value in run.data.tags.items()}
            try:
                records.append(_record(tags))
            except _NO_RECORD as error:
                log.warning("MLflow run %s holds no record of a server: %s", run.info.run_id, error)
        return records

    def _look(self) -> Any:
        """Return the runs; those of the last look where it was a moment ago, also where it failed."""
        if time.monotonic() - self._looked >= self._look_seconds:
            try:
                self._lately = self._call("look", self._runs)
            except IdentityError as error:
                self._lately = error
            self._looked = time.monotonic()
        if isinstance(self._lately, IdentityError):
            raise self._lately
        return self._lately

    def _runs(self, client: Any) -> Any:
        if self._run_id is not None:
            run = client.get_run(self._run_id)
            if run.data.tags.get(self.PREFIX + "federation") != self._federation:
                # Nothing is published in it yet, or it is another federation's.
                return []
            return [run]
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return []
        return client.search_runs(
            [experiment.experiment_id],
            f"tags.{self.PREFIX}federation = '{self._federation}'",
            max_results=self.RUNS,
            order_by=["attributes.start_time DESC"],
        )

    def _call(self, verb: str, action: Callable[[Any], Any]) -> Any:
        from azure.core.exceptions import AzureError as ClientError
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            if self._client is None:
                if self._run_id is None or self._run_id != os.environ.get("AZUREML_RUN_ID"):
                    # A job's own run is written with the token of that run.
                    self._uri = looked_up(self._uri)
                    share_sign_in(self._uri)
                self._client = MlflowClient(tracking_uri=self._uri)
            return action(self._client)
        except (MlflowException, ClientError, OSError) as error:
            refused = refusal(error, "MLflow of the orchestrator's workspace", SEE_ROLE)
            what = f"Can't {verb} in MLflow: {refused.message} ({refused.code})"
            raise IdentityError("MDW-731", what, refused.hint) from error
