"""How silos find the orchestrator: a fixed address, a shared folder, or tags of an MLflow run, known or looked for.

A rendezvous says only where the server is, never whom to trust. Each start of an orchestrator has a higher epoch and
its own record, so that one that was thought dead and comes back can't hide its successor.

    MDW-730 no server found in time    MDW-731 the place can't be used    MDW-732 not an address
"""

from __future__ import annotations

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
"""A heartbeat this old, or this far ahead of our clock, is no sign of life: three missed at one every 30 s."""
MOST_BYTES: Final = 4096

OPEN, OVER = "open", "over"
"""States of a record; `over` means that the federation has ended and no silo need wait."""

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{1,5})")
_FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Record:
    """Where a server is: `host:port`, the epoch of its start, its last sign of life (seconds since 1970), its state."""

    address: str
    epoch: int = 0
    heartbeat: float = 0.0
    state: str = OPEN


class Rendezvous(Protocol):
    """A place where a server says where it is and silos look."""

    def publish(self, record: Record) -> None:
        """Say where the server of this epoch is; called again as heartbeat. Raises IdentityError MDW-731."""

    def find(self) -> Record | None:
        """Return where the live server is, or a record that is `over`; None where nobody gives a sign of life."""

    def seen(self) -> list[Record]:
        """Return every record that is there, whatever its age."""


def checked_address(address: str) -> str:
    """Return an address `host:port` that can be dialled in form; raises IdentityError MDW-732."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[3]) < 65536:
        hint = "Write HOST:PORT, with an IPv6 address in brackets and without a scheme."
        raise IdentityError("MDW-732", f"{address[:80]!r} is not the address of a server.", hint)
    return address


def choose(records: Iterable[Record], now: float, fresh: float = FRESH_SECONDS) -> Record | None:
    """Return the fresh record of the highest epoch; the very highest one counts at any age when it says `over`."""
    ranked = sorted(records, key=lambda r: (r.epoch, r.heartbeat), reverse=True)
    if ranked and ranked[0].state == OVER:
        return ranked[0]
    return next((r for r in ranked if r.state != OVER and abs(now - r.heartbeat) <= fresh), None)


def nobody(place: Rendezvous, seconds: float, now: float) -> IdentityError:
    """Return the error of who looked for a server for so long, MDW-730: what was seen, and what to do."""
    try:
        seen = place.seen()
    except IdentityError as error:  # the place itself is the trouble
        return error
    last = max(seen, key=lambda r: (r.epoch, r.heartbeat), default=None)
    if last is None:
        what, hint = (
            "nothing was published",
            "Start the orchestrator, or check that both name the same place.",
        )
    elif not last.heartbeat:
        what, hint = (
            f"nobody answers at {last.address}",
            "Start the orchestrator; let this network reach its port.",
        )
    else:
        age = now - last.heartbeat
        when = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s in the future"
        what = f"the last sign of life is of {last.address}, epoch {last.epoch}, {when}"
        hint = (
            "If the orchestrator runs, compare the clocks of the two machines."
            if age < 0
            else "Start it again."
        )
    return IdentityError("MDW-730", f"No server found in {seconds:.0f} s: {what}.", hint)


class StaticRendezvous:
    """One address that does not change, from the silo's own configuration."""

    def __init__(self, address: str) -> None:
        self._record = Record(checked_address(address))

    def publish(self, record: Record) -> None:
        """Do nothing: silos were told beforehand."""

    def find(self) -> Record | None:
        """Return the address."""
        return self._record

    def seen(self) -> list[Record]:
        """Return the address."""
        return [self._record]


class FolderRendezvous:
    """A folder that both sides see, with one small file an epoch, each replaced whole."""

    def __init__(
        self, folder: str | Path, clock: Clock = time.time, fresh: float = FRESH_SECONDS
    ) -> None:
        self._folder, self._clock, self._fresh = Path(folder), clock, fresh

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

    def find(self) -> Record | None:
        """See `Rendezvous`."""
        return choose(self.seen(), self._clock(), self._fresh)

    def seen(self) -> list[Record]:
        """See `Rendezvous`; what is not a record is passed over."""
        records = []
        for path in sorted(self._folder.glob("server-*.json")):
            with suppress(OSError):  # removed meanwhile, or not ours to read
                with path.open("rb") as file:
                    text = file.read(MOST_BYTES + 1)
                records += _parsed(text, str(path))
        return records


def _parsed(text: bytes, where: str) -> list[Record]:
    try:
        if len(text) > MOST_BYTES:
            raise ValueError("too long")
        raw = json.loads(text)
        return [_record(raw["address"], raw["epoch"], raw["heartbeat"], raw["state"])]
    except (ValueError, TypeError, LookupError, RecursionError, IdentityError) as error:
        log.warning("%s is not a record of a server: %s", where, error)
        return []


def _record(address: Any, epoch: Any, heartbeat: Any, state: Any) -> Record:
    if state not in (OPEN, OVER):
        raise ValueError(f"state {state!r:.20}")
    return Record(checked_address(str(address)), int(epoch), float(heartbeat), state)


class MlflowRendezvous:
    """Tags of an MLflow run: each start of a server has its run, silos look through those of their federation.

    `run_id` is the one run that is meant: a server's own, needed to publish, or the only one at which a silo looks.
    Raises IdentityError MDW-731 where the tracking server can't be reached, or has no such run.
    """

    PREFIX: Final = "meadow_server_"
    RUNS: Final = 20
    """The most recent runs are enough: the live server has been started after its predecessors."""

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
        self._uri, self._experiment, self._federation = tracking_uri, experiment, federation
        self._run_id, self._clock, self._fresh = run_id, clock, fresh
        self._made: Any = None

    def publish(self, record: Record) -> None:
        """See `Rendezvous`; all tags in one call."""
        from mlflow.entities import RunTag

        if self._run_id is None:
            raise IdentityError(
                "MDW-731", "No MLflow run to publish in.", "Only an orchestrator publishes."
            )
        checked_address(record.address)
        facts = asdict(record) | {"federation": self._federation}
        tags = [
            RunTag(self.PREFIX + key, str(value))  # type: ignore[no-untyped-call]  # MLflow leaves it unannotated
            for key, value in facts.items()
        ]
        self._call("publish", lambda client: client.log_batch(self._run_id, tags=tags))

    def find(self) -> Record | None:
        """See `Rendezvous`."""
        return choose(self.seen(), self._clock(), self._fresh)

    def seen(self) -> list[Record]:
        """See `Rendezvous`; runs whose tags are not a record are passed over."""
        records = []
        for run in self._call("look", self._runs):
            tags = run.data.tags
            values = [
                tags.get(self.PREFIX + key) for key in ("address", "epoch", "heartbeat", "state")
            ]
            try:
                records.append(_record(*values))
            except (ValueError, TypeError, IdentityError) as error:
                log.warning("MLflow run %s holds no record of a server: %s", run.info.run_id, error)
        return records

    def _runs(self, client: Any) -> Any:
        if self._run_id is not None:
            run = client.get_run(self._run_id)
            mine = run.data.tags.get(self.PREFIX + "federation") == self._federation
            return [run] if mine else []  # nothing published yet, or another federation's
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return []
        chosen = f"tags.{self.PREFIX}federation = '{self._federation}'"
        order = ["attributes.start_time DESC"]
        return client.search_runs(
            [experiment.experiment_id], chosen, max_results=self.RUNS, order_by=order
        )

    def _call(self, verb: str, action: Callable[[Any], Any]) -> Any:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._made = self._made or MlflowClient(tracking_uri=self._uri)
            return action(self._made)
        except (MlflowException, OSError) as error:
            why = str(error).splitlines()[0][:200]
            hint = "Check the tracking server's address, and that this identity may use it."
            raise IdentityError("MDW-731", f"Can't {verb} in MLflow: {why}", hint) from error
