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

import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from azureml_jobs.identity.authority import ServerCredentials
from client.malloc import keep_activations_mapped, share_one_heap
from conf.code_digest import release_digest, run_digest
from conf.errors import IdentityError, SiloError
from server.orchestrator.fleet import Fleet, Limits
from server.orchestrator.identity import IdentityInterceptor, Keys, public_pem
from server.orchestrator.nodes import node_id_of
from server.orchestrator.open_run import OpenRun
from server.orchestrator.orchestrator_grid import OrchestratorGrid
from server.orchestrator.stock_port import PortLimits, StockPort
from strategies.wire import protocol
from strategies.wire.fleet_calls import add_fleet
from strategies.wire.run_code import RunCode

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 20.0
"""Between two pings of a silent connection, from either side: below the idle limit of any load
balancer.
"""
DRAIN_SECONDS: Final = 10.0
"""How long a stopping orchestrator waits for its silos to hear that the federation is over."""
SPARE_THREADS: Final = 16
"""Beside those of the registered keys, for calls that are refused."""
THREADS_PER_KEY: Final = 6
"""One waits for work, one beats, the others carry objects."""


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
    ) -> None:
        """`address` is host:port (port 0: any free one); `keys` are public keys by silo, PEM or
        OpenSSH.

        At `stock_address` Flower's own nodes of 1.40 and later are served over HTTPS; None: not at
        all.

        Raises IdentityError MDW-740 for a key that can't be used.
        """
        self._limits = limits or Limits()
        self._fleet = Fleet(self._limits)
        self._keys = Keys()
        self._interceptor = IdentityInterceptor(self._keys)
        self._address = address
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self._run: OpenRun | None = None
        self._stock: StockPort | None = None
        self.address = address
        self.stock_address = stock_address
        for silo, key in keys.items():
            self.admit_key(silo, key)

    def start(self) -> None:
        """Listen; afterwards `address` and `stock_address` have their ports.

        Raises IdentityError MDW-750, MDW-751 or MDW-757.
        """
        share_one_heap()
        keep_activations_mapped()  # chunks of updates are freed and needed again each round
        threads = SPARE_THREADS + THREADS_PER_KEY * max(8, 2 * len(self._fleet.nodes))
        server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fleet"),
            maximum_concurrent_rpcs=threads,
            options=_options(self._limits.call_bytes),
            interceptors=[self._interceptor],
        )
        add_fleet(self._fleet, server)
        port = _bind(server, self._address, self._credentials)
        self._open_stock_port()
        server.start()
        self._server = server
        self.address = f"{self._address.rpartition(':')[0]}:{port}"
        log.info("listening on %s", self.address)

    def _open_stock_port(self) -> None:
        if self.stock_address is None:
            return
        self._stock = StockPort(
            self.stock_address, self._credentials, self._fleet, self._keys, PortLimits()
        )
        self._stock.start()
        self.stock_address = self._stock.address
        log.info("listening for Flower's own nodes on %s", self.stock_address)

    def admit_key(self, silo: str, public_key: bytes) -> None:
        """Let a key in as that silo's, at once; a silo may have two while its key is changed."""
        pem = public_pem(public_key)
        self._keys.admit(pem, silo)
        node = self._fleet.nodes.admit(pem, silo)
        if self._run is not None and silo in self._run.silos:
            self._run.add(node, silo)

    def revoke_key(self, public_key: bytes) -> None:
        """Shut a key out, at once, also in the middle of a round: what its node was asked ends as
        'gone'.
        """
        pem = public_pem(public_key)
        self._keys.revoke(pem)
        with self._fleet.changed:
            if self._fleet.access is not None:
                others = self._fleet.access.nodes - {node_id_of(pem)}
                self._fleet.access = replace(self._fleet.access, nodes=others)
            self._fleet.nodes.expel(pem)
            self._fleet.changed.notify_all()

    def tell_end(self, public_key: bytes, ends: float) -> None:
        """Tell the node with this key when it ends (seconds since 1970), with each answer to its
        question for work.
        """
        with self._fleet.changed:
            self._fleet.key_ends[node_id_of(public_pem(public_key))] = ends

    def connected(self) -> list[str]:
        """Return the names of the silos that are there."""
        nodes = self._fleet.nodes
        return sorted({entry.silo for entry in nodes.entries() if nodes.is_online(entry.id)})

    def wait_for(self, silos: Iterable[str], quorum: int, timeout: float) -> list[str]:
        """Return the named silos that are there once `quorum` of them are.

        Raises SiloError MDW-330.
        """
        wanted, deadline = set(silos), time.monotonic() + timeout
        with self._fleet.changed:
            while len(here := wanted.intersection(self.connected())) < quorum:
                left = deadline - time.monotonic()
                if left <= 0:
                    missing = ", ".join(sorted(wanted - here))
                    raise SiloError(
                        "MDW-330",
                        f"{len(here)} of the {quorum} silos needed are connected after {timeout:.0f} s;"
                        f" missing: {missing}.",
                        "Look at their jobs' logs, or lower run.start_quorum.",
                    )
                self._fleet.changed.wait(min(left, 0.5))
        return sorted(here)

    def open_run(
        self,
        run_id: str,
        silos: Iterable[str],
        *,
        files: Sequence[str] = (),
        bundle: bytes | None = None,
    ) -> OrchestratorGrid:
        """Open a run for the named silos and return its grid; a run that was open is closed.

        `files` are the run's own (`conf.code_digest.run_files`): Meadow's nodes run the code that
        they have, if it is that of the run. `bundle` is the Flower app bundle for stock nodes.
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
        self._run = OpenRun(self._fleet, nodes, code, bundle)
        return self._run.grid

    def close_run(self) -> None:
        """End the open run, if there is one; its silos drop what they still do for it."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def stop(self, *, over: bool = True, drain: float = DRAIN_SECONDS) -> None:
        """Close the run and the port.

        With `over`, Meadow's nodes are told first that they may end.
        """
        self.close_run()
        if self._server is None:
            return
        if over:
            self._say_over(drain)
        if self._stock is not None:
            self._stock.stop()
            self._stock = None
        self._server.stop(grace=1.0).wait()
        self._server = None

    def _say_over(self, drain: float) -> None:
        deadline = time.monotonic() + drain
        with self._fleet.changed:
            self._fleet.over = True
            self._fleet.changed.notify_all()
            while self._own_nodes_online():
                left = deadline - time.monotonic()
                if left <= 0:
                    log.warning("stopping, though %s did not sign off", ", ".join(self.connected()))
                    return
                self._fleet.changed.wait(min(left, 0.5))

    def _own_nodes_online(self) -> bool:
        nodes = self._fleet.nodes
        return any(entry.own and nodes.is_online(entry.id) for entry in nodes.entries())


def quiet_flower(level: int = logging.WARNING) -> None:
    """Take over Flower's logger, which prints a line per call to its own handler and again to
    everybody else's.
    """
    logger = logging.getLogger("flwr")
    logger.setLevel(level)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def _options(call_bytes: int) -> list[tuple[str, int]]:
    return [
        # Two orchestrators on one port would share the silos between them.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", call_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


def _bind(server: grpc.Server, address: str, given: ServerCredentials) -> int:
    host, _, number = address.rpartition(":")
    if not host or not number.isdigit():
        raise IdentityError(
            "MDW-750", f"{address!r} is not host:port.", "Write it as in 0.0.0.0:9092."
        )
    try:
        shown = load_pem_x509_certificate(given.certificate).public_key()
        fits = load_pem_private_key(given.key, None).public_key() == shown
    except (ValueError, TypeError):
        fits = False
    if not fits:
        hint = "Make both anew with `meadow keys init`."
        raise IdentityError(
            "MDW-751",
            "The server's certificate or private key can't be read, or they differ.",
            hint,
        )
    credentials = grpc.ssl_server_credentials(
        ((given.key, given.certificate),), root_certificates=given.ca
    )
    with contextlib.suppress(RuntimeError):
        port = int(server.add_secure_port(address, credentials))
        if port:
            return port
    hint = "End the process that listens there, or choose another port."
    raise IdentityError(
        "MDW-750",
        f"Can't listen on {address}: it is taken, or not an address of this machine.",
        hint,
    )
