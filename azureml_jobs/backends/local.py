"""A federation on this machine: each part a process, which is given its own key and sees nobody
else's.

MDW-193 no such silo    MDW-194 a running silo has other settings    MDW-196 no federation there
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeGuard

from azureml_jobs.backends import outside_code
from azureml_jobs.backends.base import (
    ALL,
    ORCHESTRATOR,
    Admit,
    Backend,
    Job,
    known_silo,
    parts_of,
    silos_first,
)
from azureml_jobs.backends.local_jobs import LOST, RUNNING, WEBHOOK, LocalJobs, Tail, environment
from azureml_jobs.backends.local_jobs import Job as Process
from azureml_jobs.backends.pauses import Pauses
from azureml_jobs.backends.restarts import Restarts
from azureml_jobs.backends.running_settings import diff, requested_changes
from azureml_jobs.identity.authority import CA_CERTIFICATE, load_ca, make_ca
from azureml_jobs.identity.node_key import load_node_key, make_node_key, node_secret, public_line
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.jobs.relay_overrides import no_proxy_override, relay_overrides
from azureml_jobs.preflight.findings import Table
from conf.errors import ConfigError
from conf.federation_folder import FederationFolder
from conf.files.homes import expanded
from conf.files.whole import write_atomic
from conf.schema import Conf, Silo, SiloConf, TrackingConf
from conf.silos import silo_from_json, silo_to_json, silos
from conf.targets import known
from conf.targets.asked import nested_targets

SERVER: Final = "server"
"""The orchestrator's job; a silo's is `silo-NAME`."""
MEADOW: Final = [sys.executable, "-m", "azureml_jobs.cli.main"]
"""The command line, by the interpreter and the tree that are in use here."""
ADMISSION: Final = "admission.pem"
"""A silo's own, for one that meets the orchestrator at a relay."""
POLL_SECONDS: Final = 0.2
RESTARTS: Final = Restarts()
"""How often a part of a federation that was killed is started again."""


class LocalLog:
    """What one job says, from a byte of its file on."""

    def __init__(self, jobs: LocalJobs, part: str, position: int) -> None:
        self._jobs = jobs
        self._part = part
        self._tail = Tail(jobs.log(job_name(part)), position)
        self._told_end_of = 0.0  # when the process began of which the end was told
        self.over = False

    def lines(self) -> list[tuple[str, str]]:
        """Return the whole lines since the last call, and how the job ended, where it has."""
        # asked before the file is read, so that the last look misses nothing
        process = self._jobs.status(job_name(self._part))
        found = [(self._part, line) for line in self._tail.lines()]
        self.over = process.state != RUNNING
        if self.over and self._told_end_of != process.started:
            found.append((self._part, _state(process)))
            self._told_end_of = process.started
        return found


@dataclass(frozen=True)
class LocalBackend(Backend):
    """The jobs of a federation on this machine and what each of them may see."""

    name = "local"
    files_here = True
    conf: Conf
    admit: Admit

    def pauses(self) -> Pauses:
        """See `Backend`."""
        return Pauses(POLL_SECONDS, grows=1.0)

    @property
    def folder(self) -> FederationFolder:
        """Return where the federation lies."""
        return FederationFolder.of(self.conf.federation)

    @property
    def jobs(self) -> LocalJobs:
        """Return the processes."""
        return LocalJobs(self.folder.path / "jobs")

    # ---- who takes part

    def members(self) -> list[str]:
        """Return the silos of the configuration."""
        return [silo.name for silo in silos(self.conf)]

    def silos(self) -> list[str]:
        """Return the silos that the configuration names or that were ever started here."""
        started = [name.removeprefix("silo-") for name in self.jobs.names() if name != SERVER]
        return sorted({*self.conf.federation.silos, *started})

    def check_exists(self) -> None:
        """Raise ConfigError MDW-196 where there is no such federation."""
        if not self.folder.path.is_dir():
            hint = "Launch it, or name another by federation.name= or federation.folder=."
            raise ConfigError("MDW-196", f"There is no federation in {self.folder.path}.", hint)

    def with_store(self) -> Conf:
        """Return the configuration without a container: the store is a folder, whatever a
        federation's file says.
        """
        own = dataclasses.replace(self.conf.federation.orchestrator, store=None)
        federation = dataclasses.replace(self.conf.federation, orchestrator=own)
        return dataclasses.replace(self.conf, federation=federation)

    # ---- before a job starts

    def check(self, role: str) -> Table:
        """Return what would keep a launch on this machine from working."""
        from azureml_jobs.preflight.this_machine import check

        chosen = [silo for silo in silos(self.conf) if silo.name in parts_of(self, role)]
        running = {silo.name: self.settings(silo.name) for silo in chosen}
        return check(self.conf, role in (ALL, ORCHESTRATOR), chosen, running)

    def prepare(self, role: str) -> None:
        """Make the CA where there is none, and give each silo's job its key, admitted, and its
        settings.
        """
        chosen = parts_of(self, role)
        secrets = FolderSecrets(self.folder.keys)
        if CA_CERTIFICATE not in secrets.list():
            make_ca(secrets, self.conf.federation.name, datetime.now(UTC))
        self._check_outside_code(self.conf, chosen)
        for silo in silos(self.conf):
            if silo.name in chosen:
                self._prepare_silo(silo)

    def _prepare_silo(self, silo: Silo) -> None:
        """Raise ConfigError MDW-194 where the job runs with other settings, IdentityError for a
        revoked key.
        """
        folder = self.jobs.folder(job_name(silo.name))
        secrets = FolderSecrets(folder / "keys")
        secret = node_secret(self.conf.federation.name, silo.name)
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if secret not in secrets.list():
            make_node_key(secrets, self.conf.federation.name, silo.name)
        key = load_node_key(secrets.get(secret), secrets.where(secret))
        admission = self.admit(silo.name, public_line(key.public_key()))
        authority = FolderSecrets(self.folder.keys).get(CA_CERTIFICATE)
        load_ca(authority, str(self.folder.keys / CA_CERTIFICATE), datetime.now(UTC))
        has = self.settings(silo.name)
        if has is not None and has != silo:
            raise _other_settings(silo.name, diff(silo, has) or ["federation.size"])
        with disk(folder):
            write_atomic(folder / "ca.pem", authority)
            write_atomic(folder / ADMISSION, admission)
            write_atomic(folder / "silo.json", silo_to_json(silo))

    def settings(self, silo: str) -> Silo | None:
        """Return the settings with which a silo runs; None where it does not."""
        job = self.job(silo)
        if job is None or not job.live:
            return None
        return silo_from_json((self.jobs.folder(job_name(silo)) / "silo.json").read_text())

    def check_asked(self, conf: Conf, overrides: list[str]) -> None:
        """Raise ConfigError MDW-194 where a run asks a running silo for other settings than it was
        started with.
        """
        self._check_outside_code(conf, [ORCHESTRATOR, *(silo.name for silo in silos(conf))])
        for silo in silos(conf):
            has = self.settings(silo.name)
            if has is None:
                continue
            own = conf.federation.silos.get(silo.name, SiloConf())
            keys = requested_changes(diff(silo, has), silo, own, overrides)
            if keys:
                raise _other_settings(silo.name, keys)

    def _check_outside_code(self, conf: Conf, parts: Sequence[str]) -> None:
        """Raise ConfigError MDW-194 where a running job was not started with code that a run names."""
        for part in parts:
            job = self.job(part)
            if job is None or not job.live:
                continue
            keys = outside_code.missing(conf, self.jobs.folder(job_name(part)))
            if keys:
                raise _other_settings(part, keys)

    # ---- jobs

    def start(self, part: str) -> tuple[Job, bool]:
        """Start a part's process, unless it runs."""
        running = self.job(part)
        if running is not None and running.live:
            return running, False
        if part == ORCHESTRATOR:
            also = _told_to_the_orchestrator(self.conf.tracking)
            command = self._serve()
        else:
            also = _told_to_the_silo(self.conf.federation.silos.get(part, SiloConf()))
            command = self._join(known_silo(part, self.members()))
        folder = self.jobs.folder(job_name(part))
        with disk(folder):
            own = {known.VARIABLE: outside_code.given(self.conf, folder)}
        variables = environment(os.environ, also) | own
        days = _log_days(self.conf, part)
        new = self.jobs.start(job_name(part), command, variables, restarts=RESTARTS, log_days=days)
        return self._seen(part), new

    def job(self, part: str) -> Job | None:
        """Return a part's process, running or ended; None where it was never started."""
        return self._seen(part) if job_name(part) in self.jobs.names() else None

    def nobody_restarts(self, part: str) -> bool:
        """Return whether the process beside a part's job has gone."""
        return not self.jobs.status(job_name(part)).supervised

    def log(self, job: Job) -> LocalLog:
        """Return what a job says, over all its starts."""
        return LocalLog(self.jobs, job.part, 0)

    def log_from_now(self, part: str) -> LocalLog:
        """Return what a part's job will say: the one that runs, or the next that is started."""
        path = self.jobs.log(job_name(part))
        return LocalLog(self.jobs, part, path.stat().st_size if path.exists() else 0)

    def transfer(self, part: str) -> bytes | None:
        """See `Backend`."""
        file = self.jobs.folder(job_name(part)) / "state" / "transfer.json"
        try:
            with file.open("rb") as opened:
                return opened.read(10_000)
        except OSError:
            return None

    def last_words(self, job: Job) -> str:
        """Return the last line of a job's log that is no hint."""
        lines = Tail(self.jobs.log(job_name(job.part))).lines()
        return next((line for line in reversed(lines) if line and not line.startswith(" ")), "")

    def stop(self, parts: Sequence[str]) -> list[Job]:
        """End processes, the silos' first; return those that ran."""
        ended = []
        for group in silos_first(parts):
            jobs = [self.job(part) for part in group]
            running = [job.part for job in jobs if job is not None and job.live]
            self.jobs.stop([job_name(part) for part in running])
            ended += [self._seen(part) for part in running]
        return ended

    def _seen(self, part: str) -> Job:
        process = self.jobs.status(job_name(part))
        by_signal = process.status is not None and process.status < 0
        return Job(
            part,
            f"pid {process.pid}",
            _state(process),
            live=process.state == RUNNING,
            since=process.ended or process.started,
            where=_from_here(self.jobs.log(job_name(part))),
            status=process.status,
            killed=process.state == LOST or by_signal,
        )

    def _serve(self) -> list[str]:
        own = self.conf.federation.orchestrator
        given = {
            "federation.name": self.conf.federation.name,
            "federation.folder": str(self.folder.path),
            "federation.orchestrator.listen": own.listen,
            "federation.orchestrator.host": own.host,
            "run.output": self.conf.run.output,
        }
        if own.stock_listen is not None:
            given["federation.orchestrator.stock_listen"] = own.stock_listen
        if own.stock_grpc_listen is not None:
            given["federation.orchestrator.stock_grpc_listen"] = own.stock_grpc_listen
        given |= relay_overrides(self.conf)
        overrides = [f"{key}={quoted(value)}" for key, value in given.items()]
        overrides.append(f"federation.orchestrator.idle_timeout={own.idle_timeout}")
        # Whoever launches the server owns it: what this command names is allowed.
        targets = [*own.targets, *nested_targets(self.conf)]
        overrides.append(f"federation.orchestrator.targets=[{','.join(targets)}]")
        # And what its runs read here.
        read = [str(expanded(one).absolute()) for one in (*own.read_from, *_read(self.conf))]
        overrides.append(
            f"federation.orchestrator.read_from=[{','.join(quoted(one) for one in read)}]"
        )
        overrides += no_proxy_override(own.outbound)
        return [*MEADOW, "serve", *overrides]

    def _join(self, silo: str) -> list[str]:
        folder = self.jobs.folder(job_name(silo))
        paths = {
            "--silo-file": folder / "silo.json",
            "--ca": folder / "ca.pem",
            "--key": folder / "keys" / node_secret(self.conf.federation.name, silo),
            "--state": folder / "state",
        }
        own = self.conf.federation.silos.get(silo, SiloConf())
        if is_folder(own.state):
            paths["--state-store"] = Path(own.state)
        arguments = ["--federation", self.conf.federation.name]
        url = self.conf.federation.relay.url
        if url is None:
            paths["--rendezvous"] = self.folder.rendezvous
        else:
            arguments += ["--relay", url]
            paths["--admission"] = folder / ADMISSION
        if own.idle_timeout != SiloConf.idle_timeout:
            arguments += ["--idle-timeout", f"{own.idle_timeout:g}"]
        for flag, path in paths.items():
            arguments += [flag, str(path)]
        return [*MEADOW, "join", *arguments]


def _log_days(conf: Conf, part: str) -> float | None:
    """Return for how many days the owner of a part keeps what its job has said."""
    if part == ORCHESTRATOR:
        return conf.federation.orchestrator.lifetimes.job_logs
    own = conf.federation.silos.get(part)
    return own.lifetimes.job_logs if own is not None else None


def _told_to_the_orchestrator(conf: TrackingConf) -> list[str]:
    """Return the prefixes of further variables that the orchestrator's job gets: what a run is to
    be told to is said there alone.
    """
    wanted = {
        "MLFLOW_": conf.mlflow == "environment",
        "OTEL_": conf.otlp == "environment",
        WEBHOOK: conf.webhook == "environment",
    }
    return [prefix for prefix, asked in wanted.items() if asked]


def _told_to_the_silo(own: SiloConf) -> list[str]:
    """Return the variable that holds the password of a silo's proxy, where its owner names one."""
    kind, _, name = (own.outbound.proxy_password or "").partition(":")
    return [name] if kind == "env" else []


def job_name(part: str) -> str:
    """Return the name of a part's job, which is that of its folder."""
    return SERVER if part == ORCHESTRATOR else f"silo-{part}"


def is_folder(state: str | None) -> TypeGuard[str]:
    """Whether a silo's state lies in a folder of its own; addresses are for its job on Azure ML."""
    return state is not None and "://" not in state


def _from_here(path: Path) -> str:
    """Return a path as it is named from the folder where the command is run, where it lies below
    it.
    """
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _state(process: Process) -> str:
    said = process.state
    if process.status is not None:
        said = f"{said}, status {process.status}"
    if process.restarts:
        said = f"{said}, restarts: {process.restarts}"
    return said


def _other_settings(silo: str, keys: list[str]) -> ConfigError:
    which = "" if silo == ORCHESTRATOR else f" silo={silo}"
    what = f"{silo} is running with another {', '.join(keys)} than asked for"
    return ConfigError(
        "MDW-194",
        f"{what}, and no run changes a silo's own settings.",
        f"Leave it out, or end it first: meadow stop{which}.",
    )


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Raise ConfigError MDW-195 for what the disk refuses in this block."""
    try:
        yield
    except OSError as error:
        hint = "Choose another federation.folder, or make it writable for this user."
        what = f"Can't write {error.filename or folder}: {error.strerror}."
        raise ConfigError("MDW-195", what, hint) from error


def quoted(value: str) -> str:
    """Return a value as Hydra reads it back, whatever characters it has."""
    return "'" + value.replace("'", r"\'") + "'"


def _read(conf: Conf) -> list[str]:
    """Return what a configuration has read on this machine: its data, and a file of first weights."""
    init = conf.model.init
    found = [] if conf.data.root is None else [conf.data.root]
    # A name alone is that of a run, which the orchestrator has itself.
    return found if init is None or not expanded(init).exists() else [*found, init]
