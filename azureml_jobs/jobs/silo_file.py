"""A silo owner's own file (`silo.file=`): settings that only that silo's job sees."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import plain_yaml
from conf.allowed import ALLOW_LIST, OLD, check_policy
from conf.errors import ConfigError
from conf.fields import device, number, storage
from conf.parse import from_plain
from conf.schema import (
    Conf,
    DataConf,
    MachineConf,
    OutboundConf,
    PolicyConf,
    SiloConf,
    TrainingProcessConf,
)
from conf.validate import check_limits, check_outbound


@dataclass
class OwnConf:
    """What a silo's owner may set, as in `SiloConf`: data, device, threads, batch limit, machine,
    policy, training, outbound, state.
    """

    data: dict[str, Any] = field(default_factory=dict, metadata={"keys_of": DataConf})
    device: str | None = device(None)
    threads: int | None = number(None, at_least=1)
    batch_size_at_most: int | None = number(None, at_least=1)
    machine: MachineConf = field(default_factory=MachineConf)
    policy: PolicyConf = field(default_factory=PolicyConf)
    training: TrainingProcessConf = field(default_factory=TrainingProcessConf)
    outbound: OutboundConf = field(default_factory=OutboundConf)
    state: str | None = storage(None)


def with_own(conf: Conf, silo: str, path: Path) -> Conf:
    """Return the configuration in which a silo's own file overrides its entry.

    It is its owner's own, so interpolations (`${oc.env:DATA}`) are resolved in it, here and not in
    the job. Raises ConfigError: MDW-106 a file that can't be read, MDW-101 a key that a silo may
    not set, MDW-103 and MDW-104 a wrong value, MDW-140 and MDW-141 rules of a policy that can't be
    meant.
    """
    where = str(path)
    try:
        raw = _resolved(plain_yaml.load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        message = f"The silo's file {where} can't be read: {reason}."
        raise ConfigError("MDW-106", message, "Correct it.") from None
    own = from_plain(OwnConf, raw, key="silo", where=where)
    check_limits(own, "silo", lambda key: where)
    entry = conf.federation.silos.get(silo, SiloConf())
    # Only the keys that the file really has: its other fields hold defaults, which must not win.
    changes = {name: getattr(own, name) for name in raw}
    changes["data"] = {**entry.data, **own.data}
    of_machine = {name: getattr(own.machine, name) for name in raw.get("machine", {})}
    changes["machine"] = dataclasses.replace(entry.machine, **of_machine)
    policy_changes = {name: getattr(own.policy, name) for name in raw.get("policy", {})}
    below = entry.policy
    if policy_changes.get("version") == ALLOW_LIST:
        # Its rules say all that may run; bounds of version 1 that others wrote would contradict.
        defaults = PolicyConf()
        below = dataclasses.replace(below, **{name: getattr(defaults, name) for name in OLD})
    policy = dataclasses.replace(below, **policy_changes)
    check_policy(policy, f"federation.silos.{silo}.policy", lambda key: where)
    changes["policy"] = policy
    check_outbound(own.outbound, f"federation.silos.{silo}.outbound", lambda key: where)
    silos = {**conf.federation.silos, silo: dataclasses.replace(entry, **changes)}
    return dataclasses.replace(conf, federation=dataclasses.replace(conf.federation, silos=silos))


def _resolved(raw: Any) -> Any:
    """Return a mapping without its interpolations; anything else as it is."""
    if not isinstance(raw, dict):
        return raw
    return OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
