"""How silos find the orchestrator: a fixed address, a shared folder, or the tags of an MLflow run.

A rendezvous says only where the server is, never whom to trust. Each start of an orchestrator has a
higher epoch and its own record, so that one that seemed dead and comes back can't hide its
successor.

Beside the address it carries to each silo the certificate by which it was admitted: public, signed
by the CA, and so as good from here as from anywhere.

    MDW-730 no server found in time    MDW-731 the rendezvous can't be used
    MDW-732 not an address
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from conf.atomic_files import write_atomic
from conf.errors import IdentityError

log = logging.getLogger(__name__)

Clock = Callable[[], float]

FRESH_SECONDS: Final = 90.0
"""A heartbeat older than this, or further ahead of our clock, does not count: 3 of 30 s missed."""
MAX_BYTES: Final = 4096
ADMISSION_BYTES: Final = 8192

OPEN: Final = "open"
OVER: Final = "over"
"""States of a record; `over` means that the federation has ended and silos need not wait."""

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{1,5})")
_FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Record:
    """Where a server is: `host:port`, epoch of its start, last heartbeat (s since 1970), state."""

    address: str
    epoch: int = 0
    heartbeat: float = 0.0
    state: str = OPEN


class Rendezvous(Protocol):
    """Where a server publishes its address and silos look for it."""

    def publish(self, record: Record) -> None:
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

    def find(self) -> Record | None:
        """Return the live server's record, or one that is `over`; None where no server is alive."""

    def seen(self) -> list[Record]:
        """Return every published record, whatever its age."""


def checked_address(address: str) -> str:
    """Return the address if it has the form `host:port`; raises IdentityError MDW-732."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[3]) < 65536:
        hint = "Write HOST:PORT, with an IPv6 address in brackets and without a scheme."
        raise IdentityError("MDW-732", f"{address[:80]!r} is not the address of a server.", hint)
    return address


def choose(records: Iterable[Record], now: float, fresh: float = FRESH_SECONDS) -> Record | None:
    """Return the record that a silo follows: the fresh one of the highest epoch.

    The highest epoch's record counts at any age where it says `over`: nobody renews it then.
    """
    newest_first = sorted(records, key=_age_order, reverse=True)
    if newest_first and newest_first[0].state == OVER:
        return newest_first[0]
    for record in newest_first:
        if record.state != OVER and abs(now - record.heartbeat) <= fresh:
            return record
    return None


def no_server_found(rendezvous: Rendezvous, seconds: float, now: float) -> IdentityError:
    """Return the error of a silo that looked for a server for so long, MDW-730.

    It says which record was seen last, and what to do.
    """
    try:
        records = rendezvous.seen()
    except IdentityError as error:
        # The rendezvous itself can't be used: that is what the owner has to know.
        return error
    last = max(records, key=_age_order, default=None)
    if last is None:
        state = "nothing was published"
        hint = "Start the orchestrator, or check that both name the same rendezvous."
    elif not last.heartbeat:
        state = f"nobody answers at {last.address}"
        hint = "Start the orchestrator; let this network reach its port."
    else:
        age = now - last.heartbeat
        if age >= 0:
            when = f"{age:.0f} s ago"
            hint = "Start it again."
        else:
            when = f"{-age:.0f} s in the future"
            hint = "If the orchestrator runs, compare the clocks of the two machines."
        state = f"the last heartbeat is of {last.address}, epoch {last.epoch}, {when}"
    return IdentityError("MDW-730", f"No server found in {seconds:.0f} s: {state}.", hint)


def _age_order(record: Record) -> tuple[int, float]:
    return record.epoch, record.heartbeat


def admission_name(line: str) -> str:
    """Return the name under which the admission of a public key (OpenSSH's line) is published."""
    return hashlib.sha256(line.encode()).hexdigest()[:32]


class StaticRendezvous:
    """One address that does not change, from the silo's own configuration."""

    def __init__(self, address: str) -> None:
        self._record = Record(checked_address(address))

    def publish(self, record: Record) -> None:
        """Do nothing: silos have the address in their configuration."""

    def publish_admission(self, key: str, certificate: str) -> None:
        """Do nothing: silos have the file that `meadow keys admit` wrote."""

    def admission(self, key: str) -> bytes | None:
        """See `Rendezvous`: an address has none."""
        return None

    def find(self) -> Record | None:
        """Return the address."""
        return self._record

    def seen(self) -> list[Record]:
        """Return the address."""
        return [self._record]


class FolderRendezvous:
    """A folder that both sides see, with one small file per epoch, each replaced atomically."""

    def __init__(
        self, folder: str | Path, clock: Clock = time.time, fresh: float = FRESH_SECONDS
    ) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._fresh = fresh

    def publish(self, record: Record) -> None:
        """See `Rendezvous`; older epochs' files are removed."""
        checked_address(record.address)
        path = self._folder / f"server-{record.epoch:09d}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(asdict(record)))
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
            self._folder.mkdir(parents=True, exist_ok=True)
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
            with path.open("rb") as file:
                content = file.read(ADMISSION_BYTES + 1)
        except OSError:
            # There is none yet, or the folder can't be read now: asked again.
            return None
        return content if len(content) <= ADMISSION_BYTES else None

    def find(self) -> Record | None:
        """See `Rendezvous`."""
        return choose(self.seen(), self._clock(), self._fresh)

    def seen(self) -> list[Record]:
        """See `Rendezvous`; a file that is not a record is logged and left out."""
        records = []
        for path in sorted(self._folder.glob("server-*.json")):
            # The file may have been removed since, or be another user's.
            with suppress(OSError):
                with path.open("rb") as file:
                    text = file.read(MAX_BYTES + 1)
                record = _parsed(text, str(path))
                if record is not None:
                    records.append(record)
        return records


def _parsed(text: bytes, where: str) -> Record | None:
    try:
        if len(text) > MAX_BYTES:
            raise ValueError("too long")
        raw = json.loads(text)
        return _record(raw["address"], raw["epoch"], raw["heartbeat"], raw["state"])
    except (ValueError, TypeError, LookupError, RecursionError, IdentityError) as error:
        log.warning("%s is not a record of a server: %s", where, error)
        return None


def _record(address: Any, epoch: Any, heartbeat: Any, state: Any) -> Record:
    if state not in (OPEN, OVER):
        raise ValueError(f"state {state!r:.20}")
    return Record(checked_address(str(address)), int(epoch), float(heartbeat), state)


class MlflowRendezvous:
    """Tags of an MLflow run: each start of a server has its run; silos search their federation's.

    `run_id` names one run: a server's own, which it needs to publish, or the only one that a silo
    reads. Raises IdentityError MDW-731 where the tracking server can't be reached, or has no such
    run.
    """

    PREFIX: Final = "meadow_server_"
    ADMISSION: Final = "meadow_admission_"
    RUNS: Final = 20
    """The most recent runs are enough: the live server was started after its predecessors."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        federation: str,
        run_id: str | None = None,
        clock: Clock = time.time,
        fresh: float = FRESH_SECONDS,
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
        self._clock = clock
        self._fresh = fresh
        self._client: Any = None

    def publish(self, record: Record) -> None:
        """See `Rendezvous`; all tags in one call."""
        from mlflow.entities import RunTag

        if self._run_id is None:
            raise IdentityError(
                "MDW-731", "No MLflow run to publish in.", "Only an orchestrator publishes."
            )
        checked_address(record.address)
        values = asdict(record) | {"federation": self._federation}
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
        for run in self._call("look", self._runs):
            body = run.data.tags.get(self.ADMISSION + key, "")
            if 0 < len(body) <= ADMISSION_BYTES:
                lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
                text = f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
                return text.encode("ascii", "replace")
        return None

    def find(self) -> Record | None:
        """See `Rendezvous`."""
        return choose(self.seen(), self._clock(), self._fresh)

    def seen(self) -> list[Record]:
        """See `Rendezvous`; a run whose tags are not a record is logged and left out."""
        records = []
        for run in self._call("look", self._runs):
            tags = run.data.tags
            try:
                record = _record(
                    tags.get(self.PREFIX + "address"),
                    tags.get(self.PREFIX + "epoch"),
                    tags.get(self.PREFIX + "heartbeat"),
                    tags.get(self.PREFIX + "state"),
                )
                records.append(record)
            except (ValueError, TypeError, IdentityError) as error:
                log.warning("MLflow run %s holds no record of a server: %s", run.info.run_id, error)
        return records

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
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client = self._client or MlflowClient(tracking_uri=self._uri)
            return action(self._client)
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            hint = "Check the tracking server's address, and that this identity may use it."
            raise IdentityError("MDW-731", f"Can't {verb} in MLflow: {reason}", hint) from error
