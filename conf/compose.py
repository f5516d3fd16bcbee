"""From overrides to a configuration: Hydra composes the YAML files, the dataclasses check them.

Composed once, by whoever starts the run; what travels from there is plain
(`strategies.wire.run_config`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import own_files
from conf.federation import federation_of
from conf.hydra_errors import Origins, translate
from conf.overrides import ready
from conf.resume import resumed
from conf.schema import VARIANTS, Conf, FederationConf
from conf.targets.resolve import resolved
from conf.validate import validate

_hydra_is_global = threading.Lock()


@dataclass
class _OpenFederation(FederationConf):
    """The federation as Hydra sees it.

    OmegaConf can't add typed mappings by name; `conf.federation` types them.
    """

    silos: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema where Hydra looks for it: a node for the whole, one for each variant.

    And let Hydra read folders that people bring as `conf.own_files` does.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Conf(federation=_OpenFederation()), provider="meadow")
    for group, classes in VARIANTS.items():
        for name, cls in classes.items():
            store.store(name=f"{group}_{name}", node=cls, provider="meadow")
    own_files.register()


def compose(overrides: list[str]) -> Conf:
    """Return the configuration that the overrides give over the defaults, checked and resolved.

    Works from any directory and thread, also inside a running Hydra application. Raises ConfigError
    (MDW-100 to MDW-106), which names the key, where it was written and the nearest valid name.
    """
    prepared = ready(overrides)
    with _hydra_is_global:
        # Hydra keeps one global instance: that of an application around us is put back afterwards.
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().hydra = None
        try:
            with initialize_config_module("conf", version_base="1.3"):
                cfg = hydra_compose("config", prepared, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as e:
            raise translate(e, overrides) from e
        finally:
            GlobalHydra.instance().hydra = outer
    return finish(cfg, overrides, dict(cfg.hydra.runtime.choices))


def finish(cfg: DictConfig, overrides: list[str], choices: dict[str, Any]) -> Conf:
    """Return what Hydra composed as dataclasses, with the federation's file read in, and validated.

    `choices` is Hydra's own record of which file was taken from each group; it says where a wrong
    value stands.
    """
    origins = Origins(overrides, choices)
    try:
        groups: dict[str, Any] = {
            f.name: OmegaConf.to_object(cfg[f.name]) for f in fields(Conf) if f.name != "federation"
        }
        federation: Any = OmegaConf.to_container(cfg.federation, resolve=True)
    except OmegaConfBaseException as e:
        raise translate(e, overrides) from e
    conf = Conf(federation=federation_of(federation, overrides, origins), **groups)
    validate(conf, origins)
    if conf.run.resume:
        return resolved(resumed(conf, overrides), lambda key: f"the stored run {conf.run.resume}")
    return resolved(conf, origins)


register()
