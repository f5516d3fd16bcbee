"""A silo owner's own file (`silo.file=`): what only that silo's job gets to see."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema import Conf, DataConf, PolicyConf, SiloConf, device, number
from conf.validate import check_limits


@dataclass
class OwnConf:
    """What a silo's owner may set there, as in `SiloConf`: data, device, threads, batch limit and policy."""

    data: dict[str, Any] = field(default_factory=dict, metadata={"keys_of": DataConf})
    device: str | None = device(None)
    threads: int | None = number(None, at_least=1)
    batch_size_at_most: int | None = number(None, at_least=1)
    policy: PolicyConf = field(default_factory=PolicyConf)


def with_own(conf: Conf, silo: str, path: Path) -> Conf:
    """Return the configuration with one silo's own file laid over its entry.

    Raises ConfigError: MDW-106 a file that can't be read, MDW-101 a key that is not the silo's to set, MDW-103 and
    MDW-104 a wrong value.
    """
    where = str(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            "MDW-106", f"The silo's file {where} can't be read: {why}.", "Correct it."
        ) from None
    own = from_plain(OwnConf, raw or {}, key="silo", where=where)
    check_limits(own, "silo", lambda key: where)
    entry = conf.federation.silos.get(silo, SiloConf())
    given = {name: getattr(own, name) for name in raw or {}}
    given["data"] = {**entry.data, **own.data}
    stated = (raw or {}).get("policy", {})
    given["policy"] = dataclasses.replace(
        entry.policy, **{name: getattr(own.policy, name) for name in stated}
    )
    silos = {**conf.federation.silos, silo: dataclasses.replace(entry, **given)}
    return dataclasses.replace(conf, federation=dataclasses.replace(conf.federation, silos=silos))
