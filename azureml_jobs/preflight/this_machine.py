"""`meadow check` for a federation on this machine: what would keep its jobs from starting or
training.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from azureml_jobs.identity.authority import CA_CERTIFICATE, CA_KEY, load_ca
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.preflight.findings import ERROR, Finding, Table, tried
from azureml_jobs.preflight.relay_reach import met
from conf.errors import IdentityError
from conf.federation_folder import FederationFolder
from conf.files.homes import expanded
from conf.schema import Conf, Silo
from conf.targets.bundle import entries_of
from conf.targets.known import Known, sources_of
from conf.targets.requirements import check as check_packages


def check(
    conf: Conf, orchestrator: bool, silos: Sequence[Silo], running: Mapping[str, Silo | None]
) -> Table:
    """Return the table for the orchestrator, where it is the caller's, and for some silos.

    `running` gives the settings with which a silo runs, None where it does not.
    """
    table = Table()
    folder = FederationFolder.of(conf.federation)
    if orchestrator:
        table.rows.append(_writable("orchestrator", "folder", folder.path))
        table.rows.append(_writable("orchestrator", "results", Path(conf.run.output)))
        table.rows.append(tried("orchestrator", "CA", lambda: _ca(folder.keys), security=True))
    table.rows += outside_code(conf)
    url = conf.federation.relay.url
    if url is not None and orchestrator:
        outbound = conf.federation.orchestrator.outbound
        table.rows.append(met("orchestrator", url, conf.federation.name, outbound))
    for silo in silos:
        table.rows += _silo(silo, running.get(silo.name))
        if url is not None:
            table.rows.append(met(silo.name, url, conf.federation.name, silo.outbound))
        own = conf.federation.silos.get(silo.name)
        if own is not None and own.state is not None and "://" not in own.state:
            table.rows.append(_writable(silo.name, "state", expanded(own.state)))
    return table


def outside_code(conf: Conf) -> Iterator[Finding]:
    """Look at what a configuration names from outside the tree, and at the packages it needs."""
    for entry in entries_of(conf):
        yield tried("code", entry.group, partial(_outside, entry))


def _outside(entry: Known) -> str:
    check_packages(entry, sources_of(entry.target, f"{entry.group}.target"))
    return f"{entry.name} {entry.code[:12]}"


def _silo(silo: Silo, has: Silo | None) -> Iterator[Finding]:
    if has is not None and has != silo:
        fix = f"Leave its settings out, or end it first: meadow stop silo={silo.name}."
        yield Finding(silo.name, "settings", ERROR, "it is running with others", fix)
    else:
        yield Finding(silo.name, "settings", seen="running" if has is not None else "not running")
    if silo.data.partition == "own":
        yield _data(silo)


def _data(silo: Silo) -> Finding:
    root = silo.data.root
    if root is None:
        fix = f"Write federation.silos.{silo.name}.data.root."
        return Finding(silo.name, "data", ERROR, "no folder is named", fix)
    if not expanded(root).exists():
        return Finding(silo.name, "data", ERROR, f"{root} is not there", "Correct the path.")
    return Finding(silo.name, "data", seen=root)


def _ca(keys: Path) -> str:
    secrets = FolderSecrets(keys)
    if CA_CERTIFICATE not in secrets.list():
        return "made at the first launch"
    if CA_KEY not in secrets.list():
        raise IdentityError("MDW-700", f"{secrets.where(CA_KEY)} is missing.", "Restore it.")
    where = secrets.where(CA_CERTIFICATE)
    ends = load_ca(secrets.get(CA_CERTIFICATE), where, datetime.now(UTC)).not_valid_after_utc
    return f"until {ends:%Y-%m-%d}"


def _writable(part: str, what: str, folder: Path) -> Finding:
    """Look whether a folder can be written, or made in the nearest one that is there."""
    there = next(one for one in [folder, *folder.parents] if one.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding(part, what, seen=str(folder))
    fix = "Choose another folder, or make it writable for this user."
    return Finding(part, what, ERROR, f"{there} can't be written", fix)
