"""What one call of `meadow keys` asks for, and where it finds private parts, the list and what is handed out.

MDW-111 an argument that a verb does not take
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azureml_jobs.identity.admitted_keys import NODE_KEY_DAYS
from azureml_jobs.identity.authority import CA_CERTIFICATE
from azureml_jobs.identity.key_vault import VaultSecrets
from azureml_jobs.identity.node_key import node_secret
from azureml_jobs.identity.secret_store import FolderSecrets, SecretStore, checked_name
from conf.compose import compose
from conf.errors import ConfigError
from conf.federation_folder import FederationFolder
from conf.schema import Conf, SiloConf

HELP: Final = f"""meadow keys VERB [NAME] [FILE.pub] [key=value ...]

A federation's CA, node keys and the list of who may connect (docs/keys.md).

  init                     the orchestrator's owner: make the CA; hand its certificate to the silos
  silo NAME [--new]        a silo's owner: make the node key; hand its public half to the orchestrator's owner;
                           --new makes another in the place of the present one
  admit NAME [FILE.pub]    the orchestrator's owner: let that key connect, for days={NODE_KEY_DAYS}
  rotate NAME [FILE.pub]   admit the new key (made here, without a file), then revoke the older ones
  revoke NAME              end a silo's keys, or with key=SHA256:... one; a running federation follows within seconds
  list                     who may connect, since when, until when

Where things are:
  federation.name=NAME     all in .meadow/NAME/ (the default, with federation.name=federation)
  federation.file=FILE     where the file says: vaults, and the store's container on Azure ML
  key_vault=VAULT          private parts in this Key Vault   | keys=FOLDER    in this folder
  store=FOLDER             the orchestrator's store in this folder"""

MOST_DAYS: Final = 36500
TAKES: Final[dict[str, tuple[int, tuple[str, ...]]]] = {  # most words after the verb, and keys
    "init": (0, ("key_vault", "keys")),
    "silo": (1, ("key_vault", "keys")),
    "admit": (2, ("store", "days")),
    "rotate": (2, ("key_vault", "keys", "store", "days")),
    "revoke": (1, ("store", "key")),
    "list": (0, ("key_vault", "keys", "store")),
}


@dataclass(frozen=True)
class Asked:
    """What one call asks for, and where it finds things."""

    verb: str
    name: str
    file: Path | None
    given: dict[str, str]
    new: bool
    conf: Conf

    @property
    def silo(self) -> SiloConf:
        """Return the silo's entry in the federation's file."""
        return self.conf.federation.silos.get(self.name, SiloConf())

    @property
    def days(self) -> float:
        """Return how long an admitted key may connect."""
        text = self.given.get("days", str(NODE_KEY_DAYS))
        with suppress(ValueError):
            if 0 < float(text) <= MOST_DAYS:
                return float(text)
        raise _wrong(self.verb, f"days={text}")

    @property
    def vault(self) -> str | None:
        """Return the Key Vault of the private parts: a silo's own for its key, else the orchestrator's."""
        if "keys" in self.given:
            return None
        named = self.silo.key_vault if self.name else self.conf.federation.orchestrator.key_vault
        return self.given.get("key_vault", named)

    @property
    def folder(self) -> Path:
        """Return the folder of the private parts, where they are in none."""
        own = FederationFolder.of(self.conf.federation).keys
        return Path(self.given.get("keys", own))

    @property
    def secrets(self) -> SecretStore:
        """Return where the private parts are."""
        return VaultSecrets(self.vault) if self.vault else FolderSecrets(self.folder)

    @property
    def certificate(self) -> Path:
        """Return the file of the CA's certificate that is handed out."""
        named = self.conf.federation.orchestrator.ca
        return Path(named or "ca.pem") if self.vault else self.folder / CA_CERTIFICATE

    @property
    def public(self) -> Path:
        """Return the file of the public half that is handed out."""
        named = self.silo.public_key
        return (
            Path(named or f"{self.name}.pub")
            if self.vault
            else self.folder / f"{node_secret(self.name)}.pub"
        )


def parse(args: list[str]) -> Asked:
    """Return what the arguments ask for; raises ConfigError MDW-111, and what a wrong configuration raises."""
    verb, *rest = args
    if verb not in TAKES:
        raise ConfigError(
            "MDW-111", f"meadow keys: there is no '{verb}'.", f"Its verbs: {', '.join(TAKES)}."
        )
    (most, known), given, words, overrides = TAKES[verb], dict[str, str](), list[str](), list[str]()
    new = verb == "silo" and "--new" in rest
    for arg in rest:
        key, equals, value = arg.partition("=")
        if equals and key in known and value:
            given[key] = value
        elif equals and key.startswith("federation."):
            overrides.append(arg)
        elif equals or (arg.startswith("-") and not (new and arg == "--new")):
            raise _wrong(verb, arg)
        elif arg != "--new":
            words.append(arg)
    if most and not words:
        raise ConfigError("MDW-111", f"meadow keys {verb}: which silo?", "See meadow keys --help.")
    if len(words) > most or {"keys", "key_vault"} <= given.keys():
        raise _wrong(verb, " ".join(rest))
    name, file = (
        (checked_name(words[0]) if words else ""),
        (Path(words[1]) if len(words) > 1 else None),
    )
    conf = compose(overrides)
    checked_name(conf.federation.name)
    silos = conf.federation.silos
    if (
        name and silos and name not in silos and verb != "revoke"
    ):  # one that has left may still be ended
        raise ConfigError(
            "MDW-111",
            f"The federation has no silo '{name}'.",
            f"Its silos: {', '.join(sorted(silos))}.",
        )
    return Asked(verb, name, file, given, new, conf)


def _wrong(verb: str, what: str) -> ConfigError:
    return ConfigError(
        "MDW-111", f"meadow keys {verb}: '{what}' is not what it takes.", "See meadow keys --help."
    )
