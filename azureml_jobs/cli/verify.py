"""`meadow verify`: is a run what its ledger says, and who confirms it?

At the orchestrator and at an auditor it looks at a run's folder, at a silo at what its node kept.
What it is given from outside decides what the answer is worth: the CA's certificate, the silos'
public keys, silos' records. Beside a federation of this machine they are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from azureml_jobs.cli.arguments import Arguments
from conf.errors import CheckpointError, ConfigError, IdentityError

if TYPE_CHECKING:
    from server.run.audit import Outside
    from server.run.verdict import Verdict

KEY_PREFIX: Final = "node-"
GIVEN: Final = ("ca", "keys", "records")
"""What comes from outside a run's folder, by the arguments' names."""


def verify(arguments: Arguments) -> int:
    """Print the verdict and what a reader should know of it; the status is 6 where it is broken."""
    records = _paths(arguments, "records")
    if arguments.has("run"):
        from conf.resume import folder_of

        if arguments.has("weights"):
            raise arguments.wrong(
                "weights= goes with records= alone", "The run's folder has its own."
            )
        return of_folder(arguments, folder_of(arguments.get("run")))
    if len(records) != 1:
        raise arguments.wrong("give run=RUN_ID, or one file with records=FILE")
    from server.run.audit import audit_record

    model = Path(arguments.get("weights")) if arguments.has("weights") else None
    return _told(audit_record(records[0], _authorities(arguments), model=model))


def of_folder(arguments: Arguments, folder: Path) -> int:
    """Verify a run's folder with what the arguments name; `meadow report --verify` does it too."""
    from server.run.audit import audit

    verdict = audit(folder, outside_of(arguments, folder))
    given = [name for name in GIVEN if arguments.has(name)]
    if given and not verdict.confirmed:
        # Who names a CA wants its word: a ledger whose signatures were taken out has none.
        named = ", ".join(f"{name}=" for name in given)
        verdict.faults.append(f"nothing that was given ({named}) confirms it")
    return _told(verdict)


def outside_of(arguments: Arguments, folder: Path) -> Outside:
    """Return what is known apart from the folder: as the arguments say, else as a federation of
    this machine has it.
    """
    from server.run.audit import Outside

    authorities = _authorities(arguments)
    keys = _public_keys(arguments)
    beside = _federation_of(folder)
    if beside is not None and not authorities:
        authorities, found = _of_this_machine(beside)
        keys = {**found, **keys}
    return Outside(authorities, keys, _paths(arguments, "records"))


def _told(verdict: Verdict) -> int:
    print(verdict)
    for note in verdict.notes:
        print(f"  {note}")
    return CheckpointError.exit_status if verdict.faults else 0


def _paths(arguments: Arguments, name: str) -> list[Path]:
    return [Path(file) for file in arguments.get(name).split(",") if file]


def _authorities(arguments: Arguments) -> bytes:
    """Return the CA's certificate that the arguments name, or the federation's file that they
    name; raises ConfigError MDW-111.
    """
    named = arguments.get("ca") or _authority_of_file(arguments)
    if not named:
        return b""
    from azureml_jobs.identity.signatures import authorities_in

    path = Path(named)
    hint = "Name the PEM file that `meadow keys init` wrote."
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise arguments.wrong(f"ca={path} can't be read: {error.strerror}", hint) from None
    if not authorities_in(pem):
        raise arguments.wrong(f"ca={path} is not a certificate", hint)
    return pem


def _authority_of_file(arguments: Arguments) -> str:
    """Return where the caller's own federation's file says the CA's certificate is."""
    if not arguments.rest:
        return ""
    from conf.compose import compose

    return compose(list(arguments.rest)).federation.orchestrator.ca or ""


def _public_keys(arguments: Arguments) -> dict[str, set[str]]:
    """Return the silos' public keys in a folder of `NAME.pub` or `node-NAME.pub`, in PEM.

    Raises ConfigError MDW-111 where there are none.
    """
    if not arguments.has("keys"):
        return {}
    folder = Path(arguments.get("keys"))
    keys: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.pub")):
        with suppress(IdentityError):
            silo = path.stem.removeprefix(KEY_PREFIX)
            keys.setdefault(silo, set()).add(_pem(path.read_text(), str(path)))
    if not keys:
        hint = "They are the .pub files of `meadow keys silo`."
        raise arguments.wrong(f"keys={folder} holds no public keys of silos", hint)
    return keys


def _pem(line: str, where: str) -> str:
    from cryptography.hazmat.primitives import serialization

    from azureml_jobs.identity.node_key import load_public_key

    pem = load_public_key(line, where).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def _federation_of(folder: Path) -> Path | None:
    """Return the folder of the run's federation below this one, where there is one.

    Only the federation's name is taken from the run's folder, and no path: whoever wrote the folder
    would name a CA of his own.
    """
    from azureml_jobs.identity.secret_store import checked_name

    try:
        raw = yaml.safe_load((folder / "config.yaml").read_text())
        name = checked_name(str(raw["federation"]["name"]))
    except (OSError, yaml.YAMLError, LookupError, TypeError, IdentityError, ConfigError):
        return None
    found = Path(".meadow") / name
    return found if found.is_dir() else None


def _of_this_machine(federation: Path) -> tuple[bytes, Mapping[str, set[str]]]:
    """Return the CA and the admitted keys of a federation of this machine."""
    from azureml_jobs.identity.authority import CA_CERTIFICATE
    from azureml_jobs.storage.folder_store import FolderStore
    from conf.federation_folder import FederationFolder
    from server.store.admitted_keys import AdmittedKeys

    here = FederationFolder(federation)
    certificate = here.keys / CA_CERTIFICATE
    if not certificate.is_file():
        return b"", {}
    keys: dict[str, set[str]] = {}
    if here.store.is_dir():
        for entry in AdmittedKeys(FolderStore(here.store), lambda: 0.0).all():
            keys.setdefault(entry.silo, set()).add(entry.pem.decode())
    return certificate.read_bytes(), keys
