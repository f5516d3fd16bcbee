"""The orchestrator: one process, one open port, the Fleet service on it, and the runs driven from
inside.

How it is used:

    orchestrator = Orchestrator("0.0.0.0:9092", server_credentials(...), {"hospital-a": public_key})
    orchestrator.start()
    orchestrator.wait_for(["hospital-a"], quorum=1, timeout=600)
    grid = PackedGrid(orchestrator.open_run("digits-1", ["hospital-a"]))
    ...                                     # any ServerApp or Strategy on this grid
    orchestrator.close_run()
    orchestrator.stop()

    MDW-330 silos are missing         MDW-750 the port can't be used
    MDW-332 a silo that has no key    MDW-751 the certificate can't be used
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from azureml_jobs.identity.authority import ServerCredentials
from client.malloc import keep_activations_mapped, share_one_heap
from conf.code_digest import release_digest, run_digest
from conf.errors import SiloError
from conf.running_clock import RunningClock
from server.orchestrator.fleet import Fleet, Limits
from server.orchestrator.grpc_port import GrpcPort, allow_many_files
from server.orchestrator.identity import Keys, public_pem
from server.orchestrator.kept_uploads import KeptUploads
from server.orchestrator.nodes import node_id_of
from server.orchestrator.open_run import OpenRun
from server.orchestrator.orchestrator_grid import OrchestratorGrid
from server.orchestrator.stock_port import PortLimits, StockPort
from server.round.start_patience import StartPatience, WaitingLines
from strategies.wire import protocol
from strategies.wire.run_code import RunCode

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 10.0
"""How long a stopping orchestrator waits for its silos to hear that the federation is over."""


class Orchestrator:
    """Flower's Fleet service for the silos whose public `keys` are admitted, and a grid for one run
    at a time.
    """

    def __init__(
        self,
        address: str,
        credentials: ServerCredentials,
        keys: Mapping[str, bytes],
        limits: Limits | None = None,
        stock_address: str | None = None,
        stock_grpc_address: str | None = None,
        relays: Collection[str] = (),
        federation: str = "federation",
        uploads: KeptUploads | None = None,
    ) -> None:
        """`address` is host:port (port 0: any free one); `keys` are public keys by silo, PEM or
        OpenSSH.

        At `stock_address` Flower's own nodes of 1.40 and later are served over HTTPS, at
        `stock_grpc_address` those of 1.39 over gRPC; None: not at all.

        `relays` are addresses or networks that carry many silos: see `strangers`. `federation` is
        the name to which the CA admits silos; each of their calls is signed for it. With `uploads`
        those that take long outlast this process.

        Raises IdentityError MDW-740 for a key that can't be used.
        """
        self._limits = limits or Limits()
        self.clock = RunningClock()
        """Of the time for which this process was running: by it nobody is late, or has gone,
        because this process stood still.
        """
        self._watch = contextlib.ExitStack()
        self._uploads = uploads
        self._fleet = Fleet(self._limits, self.clock, uploads)
        self._keys = Keys()
        self._credentials = credentials
        self._port = GrpcPort(
            address, credentials, self._fleet, self._keys, federation=federation, relays=relays
        )
        self._stock_grpc: GrpcPort | None = None
        self._listening = False
        self._run: OpenRun | None = None
        self._stock: StockPort | None = None
        self.address = address
        self.stock_address = stock_address
        self.stock_grpc_address = stock_grpc_address
        for silo, key in keys.items():
            self.admit_key(silo, key)

    def start(self) -> None:
        """Listen; afterwards `address` and `stock_address` have their ports.

        Raises IdentityError MDW-750, MDW-751 or MDW-757.
        """
        allow_many_files()
        share_one_heap()
        keep_activations_mapped()  # chunks of updates are freed and needed again each round
        self._port.start()
        self._listening = True
        self._watch.enter_context(self.clock.watched())
        self.address = self._port.address
        log.info("listening on %s", self.address)
        self._open_stock_ports()

    def _open_stock_ports(self) -> None:
        if self.stock_address is not None:
            self._stock = StockPort(
                self.stock_address, self._credentials, self._fleet, self._keys, PortLimits()
            )
            self._stock.start()
            self.stock_address = self._stock.address
            log.info("listening for Flower's own nodes on %s", self.stock_address)
        if self.stock_grpc_address is not None:
            self._stock_grpc = GrpcPort(
                self.stock_grpc_address,
                self._credentials,
                self._fleet,
                self._keys,
            )
            self._stock_grpc.start()
            self.stock_grpc_address = self._stock_grpc.address
            log.info("listening for Flower's own nodes of 1.39 on %s", self.stock_grpc_address)

    def use(self, credentials: ServerCredentials) -> None:
        """Show another certificate at the port of Meadow's own nodes, from the next handshake on.

        The ports for Flower's own nodes take it when they are opened again.
        """
        self._credentials = credentials
        self._port.use(credentials)

    def admit_key(self, silo: str, public_key: bytes) -> None:
        """Let a key in as that silo's, at once; a silo may have two while its key is changed."""
        pem = public_pem(public_key)
        self._keys.admit(pem, silo)
        node = self._fleet.nodes.admit(pem, silo)
        self._port.follow_keys()
        if self._stock_grpc is not None:
            self._stock_grpc.follow_keys()
        if self._run is not None and silo in self._run.silos:
            self._run.add(node, silo)

    def revoke_key(self, public_key: bytes, *, expired: bool = False) -> None:
        """Shut a key out, at once, also in the middle of a round: what its node was asked ends as
        'gone'.

        A node that calls with it is told that it was revoked, or that its admission has `expired`.
        """
        pem = public_pem(public_key)
        self._keys.revoke(pem, expired=expired)
        with self._fleet.changed:
            if self._fleet.access is not None:
                others = self._fleet.access.nodes - {node_id_of(pem)}
                self._fleet.access = replace(self._fleet.access, nodes=others)
            self._fleet.nodes.expel(pem)
            self._fleet.instructions.let_go(node_id_of(pem))
            if self._uploads is not None:
                self._uploads.drop(node_id_of(pem))
            self._fleet.changed.notify_all()

    def tell_end(self, public_key: bytes, ends: float) -> None:
        """Tell the node with this key when it ends (seconds since 1970), with each answer to its
        question for work.
        """
        with self._fleet.changed:
            self._fleet.key_ends[node_id_of(public_pem(public_key))] = ends

    def forget_end(self, public_key: bytes) -> None:
        """Tell the node with this key of no end any more: it was renewed."""
        with self._fleet.changed:
            self._fleet.key_ends.pop(node_id_of(public_pem(public_key)), None)

    def connected(self) -> list[str]:
        """Return the names of the silos that are there."""
        nodes = self._fleet.nodes
        return sorted({entry.silo for entry in nodes.entries() if nodes.is_online(entry.id)})

    def is_connected(self, public_key: bytes) -> bool:
        """Say whether the node with this key is there."""
        return self._fleet.nodes.is_online(node_id_of(public_pem(public_key)))

    def comes_by_relay(self, peer: tuple[str, int], key: str) -> None:
        """Hear that a connection from `peer` (address and port) is one that a relay carries, for
        the silo with this key (`SHA256:...`).
        """
        self._port.comes_by_relay(peer, key)

    def ways(self) -> dict[str, str]:
        """Return through which way each silo came that is there: `direct` or `relay`."""
        nodes = self._fleet.nodes
        by_relay = {node_id_of(pem) for pem in list(self._port.by_relay)}
        return {
            entry.silo: "relay" if entry.id in by_relay else "direct"
            for entry in nodes.entries()
            if nodes.is_online(entry.id)
        }

    def transfers(self) -> dict[str, dict[str, int | str]]:
        """Return how transfers that take long go on, by silo (`TransferProgress.told`)."""
        told = self._fleet.progress.told(time.monotonic())
        entries = [(self._fleet.nodes.get(node), how) for node, how in sorted(told.items())]
        return {entry.silo: how for entry, how in entries if entry is not None}

    def twins(self) -> list[str]:
        """Return the names of the silos whose key two processes use at this time."""
        entries = [self._fleet.nodes.get(node) for node in self._fleet.twins.nodes()]
        return sorted({entry.silo for entry in entries if entry is not None})

    def wait_for(
        self,
        silos: Iterable[str],
        quorum: int,
        timeout: StartPatience | float,
        settle: float = 0.0,
        states: Callable[[], Mapping[str, str]] = dict,
    ) -> list[str]:
        """Return the named silos that are there once `quorum` of them are.

        `timeout` says how long the others are waited for (a number: so many seconds), with the
        `states` of their jobs, as far as they are known. Before `settle` seconds have passed all
        are waited for. Raises SiloError MDW-330.
        """
        patience = timeout if isinstance(timeout, StartPatience) else StartPatience(timeout)
        wanted = set(silos)
        started = self.clock()
        lines = WaitingLines()
        with self._fleet.changed:
            while True:
                here = wanted.intersection(self.connected())
                patience.met |= here
                now = self.clock()
                settling = len(here) < len(wanted) and now - started < settle
                if len(here) >= quorum and not settling:
                    return sorted(here)
                missing = sorted(wanted - here)
                said = states()
                left = patience.left(missing, len(wanted) - quorum, said, started, now)
                if len(here) < quorum and left <= 0:
                    raise _not_enough(len(here), quorum, now - started, missing)
                lines.say({silo: patience.why(silo, said) for silo in missing}, now)
                self._fleet.changed.wait(0.5)

    def open_run(
        self,
        run_id: str,
        silos: Iterable[str],
        *,
        files: Sequence[str] = (),
        bundle: bytes | None = None,
        resumed: bool = False,
    ) -> OrchestratorGrid:
        """Open a run for the named silos and return its grid; a run that was open is closed.

        `files` are the run's own (`conf.code_digest.run_files`): Meadow's nodes run the code that
        they have, if it is that of the run. `bundle` is the Flower app bundle for stock nodes. A run
        that is `resumed` may have left uploads, and says where there are none on this disk.
        Raises SiloError MDW-332 where a silo has no admitted key, and those of `run_digest`.
        """
        self.close_run()
        code = RunCode(protocol.PROTOCOL, run_digest(files), release_digest(), tuple(files))
        names = set(silos)
        nodes = {
            entry.id: entry.silo for entry in self._fleet.nodes.entries() if entry.silo in names
        }
        if keyless := sorted(names - set(nodes.values())):
            hint = "Add it with `meadow keys`, or leave the silo out."
            raise SiloError("MDW-332", f"No key is admitted for {', '.join(keyless)}.", hint)
        log.info("opening run %s for %s", run_id, ", ".join(sorted(names)))
        self._restore_uploads(run_id, nodes, resumed)
        self._run = OpenRun(self._fleet, nodes, code, bundle)
        return self._run.grid

    def _restore_uploads(self, run_id: str, nodes: Mapping[int, str], resumed: bool) -> None:
        """Take up what another process has kept of the uploads of a run's nodes."""
        if self._uploads is None:
            return
        found = 0
        for upload in self._uploads.open(run_id, nodes):
            found += 1
            with self._fleet.changed:
                size = self._fleet.instructions.restore(upload.node, upload.content, upload.parts)
            log.info(
                "%.1f MB of an upload of %s are here from before", size / 1e6, nodes[upload.node]
            )
        if resumed and not found:
            log.info("no upload is kept on this disk: what was being sent before is sent anew")

    def forget_uploads(self) -> None:
        """Delete what is kept of uploads on disk: their run has ended, or there is none."""
        if self._uploads is not None:
            self._uploads.clear()

    def close_run(self) -> None:
        """End the open run, if there is one; its silos drop what they still do for it.

        What is kept of their uploads stays, for this run may be continued by another process.
        """
        if self._run is not None:
            self._run.close()
            self._run = None

    def stop(self, *, over: bool = True, drain: float = DRAIN_SECONDS) -> None:
        """Close the run and the port.

        With `over`, Meadow's nodes are told first that they may end.
        """
        self.close_run()
        if not self._listening:
            return
        if over:
            self._say_over(drain)
        if self._stock is not None:
            self._stock.stop()
            self._stock = None
        if self._stock_grpc is not None:
            self._stock_grpc.stop()
            self._stock_grpc = None
        self._port.stop()
        self._listening = False
        self._watch.close()

    def _say_over(self, drain: float) -> None:
        deadline = time.monotonic() + drain
        with self._fleet.changed:
            self._fleet.end()
            while self._own_nodes_online():
                left = deadline - time.monotonic()
                if left <= 0:
                    log.warning("stopping, though %s did not sign off", ", ".join(self.connected()))
                    return
                self._fleet.changed.wait(min(left, 0.5))

    def _own_nodes_online(self) -> bool:
        nodes = self._fleet.nodes
        return any(entry.own and nodes.is_online(entry.id) for entry in nodes.entries())


def _not_enough(here: int, quorum: int, seconds: float, missing: Sequence[str]) -> SiloError:
    message = (
        f"{here} of the {quorum} silos needed are connected after {seconds:.0f} s;"
        f" missing: {', '.join(missing)}."
    )
    hint = "Look at their jobs' logs, or resume the run with a lower run.start_quorum."
    return SiloError("MDW-330", message, hint)


def quiet_flower(level: int = logging.WARNING) -> None:
    """Take over Flower's logger, which prints a line per call to its own handler and again to
    everybody else's.
    """
    logger = logging.getLogger("flwr")
    logger.setLevel(level)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
