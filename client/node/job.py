"""The silo's job: the program that finds the server, connects, and runs the ClientApp for days.

    meadow join --silo-file silo.json --server host:9092 --ca ca.pem --key hospital-a.key

It ends with status 0 when the federation is over, `IDLE_STATUS` when there was no work for
`--idle-timeout`, 143 on SIGTERM, and the status of its error otherwise. Where its device is lost to
it, it starts again in its own place (`client.node.start_again`).

    MDW-333 no such app     MDW-756 a file or folder that can't be used
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from flwr.clientapp import ClientApp

from azureml_jobs.identity.authority import span_of
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import NodeKey, data_key_of, load_node_key, read_node_key
from azureml_jobs.identity.secret_store import read_private
from azureml_jobs.rendezvous import (
    MAX_BYTES as LARGEST_RECORD,
)
from azureml_jobs.rendezvous import (
    FolderRendezvous,
    MlflowRendezvous,
    Rendezvous,
    StaticRendezvous,
)
from azureml_jobs.storage.opened import CONTAINER, open_store
from azureml_jobs.storage.store_rendezvous import StoreRendezvous
from client import compiled, driver
from client.capacity import memory
from client.device_failures import LOST_STATUS
from client.malloc import keep_activations_mapped
from client.node.answer_budget import budget_of
from client.node.connection import Connection, FederationOver
from client.node.journal import LARGEST, UpdateJournal
from client.node.node import IDLE_SECONDS, IdleTimeout, Node
from client.node.one_process import check_alone
from client.node.own_admission import SiloAdmission
from client.node.server_finder import ServerFinder
from client.node.silo_forgetting import Lifetimes, SiloFiles
from client.node.start_again import start_again
from client.node.state_store import SiloStateStore
from client.node.training_process import TrainingProcess
from client.node.trusted_cas import TrustedCas
from client.node.witness import LedgerRecord, Witness
from conf.code_digest import release_digest
from conf.errors import IdentityError, MeadowError, SiloError
from conf.job_logs import log_to_stderr
from conf.schema import FederationConf, PolicyConf
from conf.silos import silo_from_json
from conf.startup_log import note
from conf.targets.requirements import check_job

if TYPE_CHECKING:
    from client.node.relayed_server import RelayedServer

log = logging.getLogger(__name__)

IDLE_STATUS: Final = 20
OWN_STATES: Final = "states"
"""The folder of the silo's state below `state`, for a silo that has no other place for it."""
TERMINATED_STATUS: Final = 143
LOOK_SECONDS: Final = 5.0
"""Between two looks at the orchestrator's MLflow: a thousand silos are two hundred calls a second."""


class Terminated(BaseException):
    """The platform asked the process to end; not an Exception, so that no app takes it for its own."""


def load_app(path: str) -> ClientApp:
    """Return the ClientApp at `module:attribute`; raises SiloError MDW-333 where there is none."""
    module, _, attribute = path.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SiloError(
            "MDW-333", f"There is no app at {path!r}: {error}.", "Write it as package.module:app."
        ) from None
    if not isinstance(app, ClientApp):
        raise SiloError(
            "MDW-333",
            f"{path!r} is a {type(app).__name__}, no ClientApp.",
            "Name a flwr ClientApp.",
        )
    return app


def work(make: Callable[[], Node]) -> int:
    """Run a node to its end and return the process's exit status; one line on stderr says why."""
    signal.signal(signal.SIGTERM, _terminate)
    # The chunks of an update are freed and needed again each round, too.
    keep_activations_mapped()
    try:
        make().run()
    except FederationOver:
        print("the federation is over", file=sys.stderr)
        return 0
    except IdleTimeout as reason:
        print(f"ended: {reason}", file=sys.stderr)
        return IDLE_STATUS
    except Terminated:
        print("ended by SIGTERM; what was not finished has been handed back", file=sys.stderr)
        return TERMINATED_STATUS
    except MeadowError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


@dataclass(frozen=True)
class NodeSettings:
    """What a silo's node is started with; of the three groups below exactly one field each is set.

    A silo's settings: `silo` (JSON, as `conf.silos.silo_to_json`) or `silo_file`. Where the server
    is: `server` (host:port), `relay` (the address of one at which it is met), `rendezvous` (a
    folder, or a blob container's address), or `tracking` (an MLflow address, where `experiment`,
    `federation` and perhaps `run_id` say which; the federation's name is also part of that of the
    key in a vault). The node's private key: `key` or `key_vault`. Its admission comes with the
    rendezvous, or from the file `admission`. With `federation` only that federation's records are
    followed.
    """

    ca: Path
    admission: Path | None = None
    silo: str = ""
    silo_file: Path | None = None
    server: str = ""
    relay: str = ""
    rendezvous: str = ""
    tracking: str = ""
    experiment: str = "meadow"
    federation: str = ""
    run_id: str | None = None
    key: Path | None = None
    key_vault: str = ""
    data: str = ""
    app: str = "client.app:app"
    state: Path | None = None
    state_store: str = ""
    idle_timeout: float = IDLE_SECONDS
    foreign_runs: bool = False


def make_node(settings: NodeSettings) -> Node:
    """Return the node that the settings describe; raises MeadowError."""
    app = load_app(settings.app)
    note("import")
    # Now, so that the digest is of the code that was imported, not of files changed later.
    log.info("code %s", release_digest())
    try:
        text = settings.silo_file.read_text() if settings.silo_file else settings.silo
        silo = silo_from_json(text)
        journal = UpdateJournal(settings.state) if settings.state else None
    except OSError as error:
        what = f"{error.filename or 'a file'} can't be used: {error.strerror}."
        raise IdentityError("MDW-756", what, "Look at --silo-file and --state.") from None
    check_job(silo.name)
    check_alone(silo.name, os.environ)
    driver.check(silo.name, silo.device, driver.cuda_of_torch(), driver.found())
    hint = "Ask the orchestrator's owner for the next one."
    if settings.state:
        # Before a process of its own is started, which inherits it.
        compiled.keep_in(settings.state, os.environ)
    if settings.data:
        silo = dataclasses.replace(silo, data=dataclasses.replace(silo.data, root=settings.data))
    silo = dataclasses.replace(silo, account=_storage(settings))
    apart = (
        TrainingProcess(settings.app, silo, release_digest()) if silo.training.separate else None
    )
    by_relay = _by_relay(settings.relay) if settings.relay else None
    place = by_relay.place if by_relay is not None else _rendezvous(settings)
    trusted = TrustedCas(settings.ca, place)
    server = ServerFinder(place, trusted.look, settings.federation or None)
    key = _node_key(settings, silo.name)
    admission = SiloAdmission(silo.name, key, trusted.pem, place, settings.admission)
    if by_relay is not None:
        by_relay.start(key, admission, silo.outbound, _own_secrets(settings))
    connection = Connection(
        server,
        trusted.pem,
        key,
        # A stock server asks for no certificate, and nobody has signed one for it.
        admission=None if settings.foreign_runs else admission,
        elsewhere=server.failed,
        options=by_relay.options if by_relay is not None else None,
        target=by_relay.target if by_relay is not None else None,
        watch=journal.note_transfer if journal is not None else None,
        message_bytes=_message_bytes(silo.policy),
    )
    states = _states(settings, silo.name)
    record = LedgerRecord(settings.state) if settings.state else None
    return Node(
        connection,
        apart or app,
        silo,
        journal=journal,
        states=states,
        witness=Witness(silo.name, key, trusted.certificates, record),
        lifetimes=Lifetimes(SiloFiles(journal, states, record), silo.lifetimes),
        idle_timeout=settings.idle_timeout,
        foreign_runs=settings.foreign_runs,
        spans=[span_of(f"The CA in {settings.ca}", trusted.first, hint)],
        finder=server,
        at_end=_all_of(
            apart.close if apart is not None else None,
            by_relay.stop if by_relay is not None else None,
        ),
        budget=budget_of(silo.policy, states, silo.name),
        data_key=data_key_of(key),
    )


def _by_relay(url: str) -> RelayedServer:
    """Return the way by a relay, whose modules nobody else needs."""
    from client.node.relayed_server import RelayedServer

    return RelayedServer(url)


def _all_of(*steps: Callable[[], None] | None) -> Callable[[], None]:
    """Return what does each step that there is."""

    def do() -> None:
        for step in steps:
            if step is not None:
                step()

    return do


def _own_secrets(settings: NodeSettings) -> Callable[[str], bytes] | None:
    """Return how a secret of the owner's own Key Vault is read, where one is named."""
    return VaultSecrets(settings.key_vault).get if settings.key_vault else None


def _message_bytes(policy: PolicyConf) -> int:
    """Return how large an instruction may be: what comes, and the model that it is put into."""
    if policy.message_mib_at_most is not None:
        return policy.message_mib_at_most * 2**20
    return min(LARGEST, memory() // 2)


def _states(settings: NodeSettings, silo: str) -> SiloStateStore | None:
    """Return where the silo's state lasts; without a place of its own, beside the last update."""
    where = _storage(settings)
    return SiloStateStore(lambda: open_store(where), silo) if where else None


def _storage(settings: NodeSettings) -> str:
    """Return the place of the silo's own that lasts, or nothing where it has none."""
    if settings.state_store or settings.state is None:
        return settings.state_store
    return str((settings.state / OWN_STATES).absolute())


def _node_key(settings: NodeSettings, silo: str) -> NodeKey:
    if settings.key is not None:
        return load_node_key(read_private(settings.key), str(settings.key))
    return read_node_key(VaultSecrets(settings.key_vault), settings.federation, silo)


def _rendezvous(settings: NodeSettings) -> Rendezvous:
    if settings.server:
        return StaticRendezvous(settings.server)
    if settings.rendezvous.startswith(CONTAINER):
        return StoreRendezvous(open_store(settings.rendezvous, LARGEST_RECORD), LOOK_SECONDS)
    if settings.rendezvous:
        return FolderRendezvous(settings.rendezvous)
    # Asked as this job's identity: the token of its own MLflow run is for its own workspace alone.
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
    ):
        os.environ.pop(name, None)
    for name in ("azure", "azureml"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowRendezvous(
        settings.tracking,
        settings.experiment,
        settings.federation or FederationConf.name,
        settings.run_id,
        look_seconds=LOOK_SECONDS,
    )


def run(settings: NodeSettings) -> int:
    """Be the node that the settings describe until it ends, and return the process's exit status."""
    log_to_stderr()
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    for handler in list(flower.handlers):
        flower.removeHandler(handler)
    status = work(lambda: make_node(settings))
    if status == LOST_STATUS:
        start_again()
    return status
