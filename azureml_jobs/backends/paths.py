"""Paths of a configuration, so that they mean the same in every job of this machine: each works in
its own folder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from conf.federation_folder import FederationFolder
from conf.files.homes import expanded
from conf.schema import Conf, OutboundConf


def with_absolute_paths(conf: Conf) -> Conf:
    """Return a configuration whose paths begin at the root."""
    named = {
        name: dataclasses.replace(
            silo,
            data=_rooted(silo.data),
            state=_absolute(silo.state),
            outbound=_outbound(silo.outbound),
        )
        for name, silo in conf.federation.silos.items()
    }
    folder = str(FederationFolder.of(conf.federation).path)
    conf = dataclasses.replace(conf)
    own = conf.federation.orchestrator
    own = dataclasses.replace(own, outbound=_outbound(own.outbound))
    conf.federation = dataclasses.replace(
        conf.federation, folder=folder, silos=named, orchestrator=own
    )
    conf.run = dataclasses.replace(conf.run, output=str(Path(conf.run.output).absolute()))
    conf.data = dataclasses.replace(conf.data, **_rooted({"root": conf.data.root}))
    if conf.model.init is not None:
        conf.model = dataclasses.replace(conf.model, init=_found(conf.model.init, conf.run.output))
    return conf


def _found(init: str, output: str) -> str:
    """Return where a model to start from lies: as it was written, or among the runs; else as it was
    written.
    """
    for path in (Path(init), Path(output) / init):
        if path.exists():
            return str(path.absolute())
    return init


def _rooted(data: dict[str, Any]) -> dict[str, Any]:
    root = _absolute(data.get("root"))
    return data if root is None else {**data, "root": root}


def _outbound(conf: OutboundConf) -> OutboundConf:
    kind, _, name = (conf.proxy_password or "").partition(":")
    password = f"file:{_absolute(name)}" if kind == "file" else conf.proxy_password
    return dataclasses.replace(conf, ca=_absolute(conf.ca), proxy_password=password)


def _absolute(path: str | None) -> str | None:
    """Return a path from the root; an address as it is."""
    if path is None or "://" in path:
        return path
    return str(expanded(path))
