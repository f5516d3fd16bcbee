"""What a federation's jobs on Azure ML are made of: code, public file, settings, CA, admission.

Nothing here asks Azure: what has to be looked up is given (`Places`), or stands in the federation's
file. So `--dry-run` needs no sign-in.

    MDW-810 the federation does not say where something is
    MDW-814 the CA's certificate for the silos is missing
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.identity.authority import load_ca
from azureml_jobs.identity.mlflow_sign_in import address_of
from azureml_jobs.identity.signed_admission import check_admission
from azureml_jobs.jobs.snapshot import ROOT, image_with, snapshot
from azureml_jobs.jobs.specification import (
    ADMISSION_FILE,
    CA_FILE,
    FEDERATION_FILE,
    OUTBOUND_CA_FILE,
    SERVER,
    SILO_FILE,
    Code,
    JobSpec,
    as_pipeline,
    as_schedule,
    as_yaml,
    image_of,
    server_job,
    silo_job,
)
from conf.errors import AzureError
from conf.files.whole import rename_new, write_atomic
from conf.schema import Conf, OutboundConf
from conf.silos import silo_to_json, silos
from conf.targets.bundle import bundled, entries_of
from conf.targets.known import to_text
from conf.targets.requirements import needed_in_an_image

NO_STATE: Final = (
    "# What the silo's algorithm remembers ends with this job: write silos.NAME.state with the "
    "address of a\n# container (https://...) into the federation's file, or launch it signed in.\n"
)


@dataclass(frozen=True)
class Places:
    """Addresses of containers: the orchestrator's store, and where a silo's state lasts."""

    store: str = ""
    state: str = ""


@dataclass(frozen=True)
class SentJobs:
    """The jobs of a federation as they are sent; raises AzureError."""

    conf: Conf
    root: Path = ROOT  # of the code that jobs are sent with

    def of(
        self, part: str, places: Places, folder: Path | None = None
    ) -> AbstractContextManager[JobSpec]:
        """Return a part's job, whose snapshot lies in `folder`, or as long as the block lasts."""
        if part == ORCHESTRATOR:
            return self._server(places, folder)
        return self._silo(part, places, folder)

    def dry_run(self, parts: Sequence[str], folder: Path) -> list[Path]:
        """Write the YAML of jobs into a new folder, with all that they are sent with beside.

        Every path in it is relative, so that the folder can be moved. All is written or nothing.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".dry-run-", dir=folder.parent))
        try:
            names = [name for part in parts for name in self._written(part, made)]
            if not rename_new(made, folder):
                raise FileExistsError(errno.EEXIST, "is there already", str(folder))
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return [folder / name for name in names]

    def _written(self, part: str, folder: Path) -> list[str]:
        """Write one part; return the names of its files."""
        name = SERVER if part == ORCHESTRATOR else part
        code = folder / name
        code.mkdir()
        with self.of(part, self._places_in_file(part), code) as spec:
            if isinstance(spec.environment, Path) and not spec.environment.is_relative_to(folder):
                image = folder / f"{name}-image"
                shutil.copytree(spec.environment, image)
                spec = dataclasses.replace(spec, environment=image)
            text = as_yaml(spec, folder, f"{name}.yaml")
            if part != ORCHESTRATOR and "--state-store" not in spec.command:
                text = NO_STATE + text
            write_atomic(folder / f"{name}.yaml", text)
        if part != ORCHESTRATOR:
            return [f"{name}.yaml"]
        files = [f"{name}-schedule.yaml", f"{name}-pipeline.yaml"]
        with self._standby(code, spec.environment) as spec:
            write_atomic(folder / files[0], as_schedule(spec, files[1], files[0]))
            write_atomic(folder / files[1], as_pipeline(spec, folder))
        return [f"{name}.yaml", files[0]]

    @contextmanager
    def _standby(self, code: Path, environment: Path | str) -> Iterator[JobSpec]:
        """Return the same job for a schedule: it ends well where another orchestrator is live."""
        own = dataclasses.replace(self.conf.federation.orchestrator, standby=True)
        federation = dataclasses.replace(self.conf.federation, orchestrator=own)
        conf = dataclasses.replace(self.conf, federation=federation)
        with tempfile.TemporaryDirectory(prefix="meadow-job-") as made:
            places = self._places_in_file(ORCHESTRATOR)
            with SentJobs(conf, self.root).of(ORCHESTRATOR, places, Path(made)) as spec:
                yield dataclasses.replace(spec, code=code, environment=environment)

    def _places_in_file(self, part: str) -> Places:
        own = self.conf.federation.orchestrator
        if part == ORCHESTRATOR:
            if own.store is None:
                hint = (
                    "Write orchestrator.store: https://ACCOUNT.blob.core.windows.net/CONTAINER "
                    "into the federation's file (az ml datastore show)."
                )
                what = "A dry run looks nothing up, and the file does not say where the store is."
                raise AzureError("MDW-810", what, hint)
            return Places(store=own.store)
        silo = self.conf.federation.silos.get(part)
        state = silo.state if silo is not None else None
        return Places(state=state if state and state.startswith("https://") else "")

    @contextmanager
    def _server(self, places: Places, folder: Path | None = None) -> Iterator[JobSpec]:
        text = self._public()
        with _folder(folder) as place:
            bundle = self._bundle(self.conf.federation.orchestrator.outbound)
            digest = snapshot(place, {FEDERATION_FILE: text, **bundle}, self.root)
            image = image_of(self.conf.federation.orchestrator.environment, "orchestrator")
            code = self._with_outside(Code(place, digest, _digest(text)), image)
            yield server_job(self.conf, code, places.store)

    @contextmanager
    def _silo(self, name: str, places: Places, folder: Path | None = None) -> Iterator[JobSpec]:
        settings = next((silo for silo in silos(self.conf) if silo.name == name), None)
        own = self.conf.federation.silos.get(name)
        if settings is not None and own is not None and own.input is not None:
            settings = dataclasses.replace(
                settings, data=dataclasses.replace(settings.data, partition="own")
            )
        if settings is not None and own is not None:
            # Where the job is given a GPU, one that has none is refused (MDW-344). A simulation of
            # the same federation's file has what this machine has.
            settings = dataclasses.replace(settings, gpus=own.gpus)
        bundle = self._bundle(own.outbound) if own is not None else {}
        if settings is not None and bundle:
            outbound = dataclasses.replace(settings.outbound, ca=OUTBOUND_CA_FILE)
            settings = dataclasses.replace(settings, outbound=outbound)
        text = silo_to_json(settings).encode() if settings else b""
        with _folder(folder) as place:
            files = {SILO_FILE: text, CA_FILE: self._ca(), **self._admission(name), **bundle}
            digest = snapshot(place, files, self.root)
            image = image_of(own.environment if own else None, "silo")
            code = self._with_outside(Code(place, digest, _digest(text)), image)
            yield silo_job(self.conf, name, code, self._tracking(), places.state)

    def _with_outside(self, code: Code, image: Path | str) -> Code:
        """Copy the code from outside the tree into a snapshot, and what its image needs for it.

        An environment that is there already is taken as it is: the job says at its start what it
        lacks.
        """
        entries = bundled(self.conf, code.folder, code.folder)
        if not entries:
            return code
        more = needed_in_an_image(entries_of(self.conf))
        environment = None
        if more and isinstance(image, Path):
            environment = image_with(image, more, code.folder)
        return dataclasses.replace(code, outside=to_text(entries), environment=environment)

    def _public(self) -> bytes:
        """Return the federation's file as the orchestrator's job gets it: public, and without
        anybody's paths.
        """
        plain: dict[str, Any] = dataclasses.asdict(self.conf.federation)
        plain["file"] = None
        plain["folder"] = None
        plain["orchestrator"]["ca"] = None
        for silo in plain["silos"].values():
            silo["data"] = {}
            silo["public_key"] = None
            silo["admission"] = None
            silo["state"] = None
            # How its connections leave is nobody else's to know.
            silo["outbound"] = {}
        plain["orchestrator"]["outbound"] = {}
        return yaml.safe_dump(plain, sort_keys=True).encode()

    def _ca(self) -> bytes:
        path = self.conf.federation.orchestrator.ca
        hint = "Name the file that the orchestrator's owner handed out: federation.orchestrator.ca=ca.pem."
        if path is None:
            raise AzureError("MDW-814", "A silo must know the CA that it trusts.", hint)
        try:
            certificate = Path(path).read_bytes()
        except OSError as error:
            raise AzureError("MDW-814", f"Can't read {path}: {error.strerror}.", hint) from None
        load_ca(certificate, path, datetime.now(UTC))
        return certificate

    def _bundle(self, outbound: OutboundConf) -> dict[str, bytes]:
        """Return the file of CAs that a job's way to the relay trusts, where one is named.

        Raises AzureError MDW-814 where it can't be read.
        """
        if outbound.ca is None:
            return {}
        try:
            return {OUTBOUND_CA_FILE: Path(outbound.ca).read_bytes()}
        except OSError as error:
            what = f"Can't read {outbound.ca}: {error.strerror}."
            raise AzureError("MDW-814", what, "Correct outbound.ca.") from None

    def _admission(self, silo: str) -> dict[str, bytes]:
        """Return the file of a silo's admission, where its owner names one.

        Raises IdentityError MDW-716, or AzureError MDW-814 where it can't be read.
        """
        own = self.conf.federation.silos.get(silo)
        if own is None or not own.admission:
            return {}
        try:
            content = Path(own.admission).read_bytes()
        except OSError as error:
            hint = "Name the file that `meadow keys admit` wrote."
            what = f"Can't read {own.admission}: {error.strerror}."
            raise AzureError("MDW-814", what, hint) from None
        check_admission(content, self._ca(), own.admission)
        return {ADMISSION_FILE: content}

    def _tracking(self) -> str:
        """Return where the orchestrator publishes; its workspace's id, where the file does not give
        an address: the silo's job looks that up, and its owner needs no right there.
        """
        own = self.conf.federation.orchestrator
        if own.address or own.rendezvous or self.conf.federation.relay.url:
            return ""
        if own.tracking:
            return own.tracking
        if own.workspace is None:
            hint = "Write it into the federation's file, or orchestrator.rendezvous."
            raise AzureError("MDW-810", "No workspace for orchestrator.", hint)
        return address_of(
            own.workspace.subscription_id, own.workspace.resource_group, own.workspace.name
        )


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="meadow-job-") as made:
        yield Path(made)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
