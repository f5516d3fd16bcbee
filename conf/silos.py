"""Who takes part: each silo's name, its place among the others, and its owner's settings over the
run's `data`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from functools import lru_cache
from typing import Any, Final

from conf.allowed import check_policy
from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema import Conf, DataConf, Silo, SiloConf
from conf.validate import Where, check_limits, check_outbound, check_training

_WHERE: Final = "the silo's settings"
_NOBODY: Final[dict[str, Any]] = {"name": "", "index": 0}
"""What differs between silos that are alike, in the form in which none has it."""


def silos(conf: Conf) -> list[Silo]:
    """Return the silos of a federation: the named ones in the order of their names, or silo-1 to
    silo-N.

    The order decides each silo's part of a public set, so it must not depend on how a file was
    written. Raises ConfigError where a silo's own settings are wrong.
    """
    named = conf.federation.silos
    names = sorted(named) if named else [f"silo-{i}" for i in range(1, conf.federation.size + 1)]
    return [_silo(conf, name, index, len(names)) for index, name in enumerate(names)]


def _silo(conf: Conf, name: str, index: int, of: int) -> Silo:
    own = conf.federation.silos.get(name, SiloConf())
    data = data_of(conf.data, own, f"federation.silos.{name}.data", lambda key: "federation")
    return Silo(
        name,
        index,
        of,
        data,
        own.device,
        own.threads,
        own.batch_size_at_most,
        machine=own.machine,
        policy=own.policy,
        lifetimes=own.lifetimes,
        training=own.training,
        outbound=own.outbound,
    )


def data_of(data: DataConf, own: SiloConf, key: str, where: Where) -> DataConf:
    """Return the run's `data` with a silo's own keys laid over it; `key` and `where` are for the
    error.

    Raises ConfigError: MDW-101 an unknown key, MDW-103 a wrong type, MDW-104 outside the limits.
    """
    checked = from_plain(DataConf, own.data, key=key, where=where(key))
    check_limits(checked, key, where)
    return dataclasses.replace(data, **{name: getattr(checked, name) for name in own.data})


def pool_workers(conf: Conf) -> int:
    """Return how many processes the pool trains in: those that were asked for, or one a core."""
    asked = conf.simulation.workers
    wanted = asked if asked is not None else os.cpu_count() or 1
    return min(wanted, len(conf.federation.silos) or conf.federation.size)


def silo_to_json(silo: Silo) -> str:
    """Return a silo's settings as one line of JSON, to be handed to its process."""
    return json.dumps(dataclasses.asdict(silo), sort_keys=True, allow_nan=False)


def silo_from_json(text: str) -> Silo:
    """Return the silo written by `silo_to_json`; raises ConfigError for anything else."""
    try:
        raw = json.loads(text)
        rest = json.dumps({**raw, **_NOBODY}, sort_keys=True) if isinstance(raw, dict) else text
    except (ValueError, RecursionError) as e:
        raise ConfigError(
            "MDW-103", f"{_WHERE} are not JSON: {e}.", "Write them with silo_to_json."
        ) from e
    who = {key: raw[key] for key in _NOBODY if key in raw} if isinstance(raw, dict) else {}
    if (
        any(type(value) is not type(_NOBODY[key]) for key, value in who.items())
        or "name" not in who
    ):
        return _checked(raw)
    return dataclasses.replace(_alike(rest), **who)


@lru_cache(maxsize=64)
def _alike(text: str) -> Silo:
    """Return the settings that many silos of a run share, checked once for all of them."""
    return _checked(json.loads(text))


def _checked(raw: object) -> Silo:
    silo = from_plain(Silo, raw, key="silo", where=_WHERE)
    check_limits(silo, "silo", _where)
    check_policy(silo.policy, "silo.policy", _where)
    check_training(silo.training, "silo.training", _where)
    check_outbound(silo.outbound, "silo.outbound", _where)
    return silo


def _where(key: str) -> str:
    return _WHERE
