"""What may stand in a file that another party wrote: plain values, names, and what came with it.

A federation's file is written by one party and read by all, each with rights of its own: in a
reader's process an interpolation would copy a secret, a path would read or write the reader's disk,
and an address would be sent the reader's token. So a value of such a file is taken as it stands, a
path is that of a file in the same folder, and an address is one of Azure's own.

    MDW-106 an interpolation    MDW-114 a value that may not stand in another party's file
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from conf.errors import ConfigError

ON_THE_COMMAND_LINE: Final = "Write the value itself, or give it on the command line."
YOURS: Final = "Leave it out; where it is meant, give it on the command line: {key}=..."

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,260}")
_CONTAINER: Final = re.compile(
    r"https://[a-z0-9]{3,24}(\.z[0-9]{1,2})?\.blob\."
    r"(core\.windows\.net|core\.usgovcloudapi\.net|core\.chinacloudapi\.cn|storage\.azure\.net)"
    r"/[A-Za-z0-9$][A-Za-z0-9$_./-]*"
)
_DATASTORE: Final = re.compile(r"azureml://datastores/[A-Za-z0-9_-]+(/paths/[A-Za-z0-9_./ -]*)?")
_TRACKING: Final = re.compile(
    r"azureml://([a-z0-9-]+\.)+(api\.azureml\.ms|api\.ml\.azure\.us|api\.ml\.azure\.cn)"
    r"(:443)?/[A-Za-z0-9_./() -]*"
)
_ASSET: Final = re.compile(r"azureml:[A-Za-z0-9_./: -]+")

Rule = Callable[[str, str, Path], str]
"""From a dotted key, its value and the file's folder to the value that is meant."""


def check_plain(content: Any, where: str) -> None:
    """Raise ConfigError MDW-106 for an interpolation in any value or key of a file `where`."""
    for key, text in _texts(content, ""):
        if "${" in text:
            what = (
                f"{where}: {key} holds an interpolation, and a federation's file has plain values."
            )
            raise ConfigError("MDW-106", what, ON_THE_COMMAND_LINE)


def meant(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a federation's file as it is meant: paths from its own folder.

    `content` are keys of FederationConf, of the right types. Raises ConfigError MDW-114 for a path
    that leaves the folder, an address that is not Azure's, or a key that is the reader's own.
    """
    return _meant_mapping(content, "", path)


def rule_of(key: str) -> Rule | None:
    """Return the rule for a text at a dotted key of a federation's file; None for any text."""
    for pattern, rule in RULES.items():
        if re.fullmatch(pattern, key):
            return rule
    return None


def _meant_mapping(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    made = {}
    for name, value in content.items():
        at = f"{key}.{name}".lstrip(".")
        if isinstance(value, dict):
            made[name] = _meant_mapping(value, at, path)
            continue
        rule = rule_of(at)
        if rule is not None and isinstance(value, str):
            value = _told(rule, at, value, path)
        elif rule is not None and isinstance(value, list):
            value = [_told(rule, at, str(one), path) for one in value]
        made[name] = value
    return made


def _told(rule: Rule, key: str, value: str, path: Path) -> str:
    try:
        return rule(key, value, path.parent)
    except ValueError as error:
        what = f"{path}: federation.{key}={value[:100]!r} {error}."
        hint = YOURS.format(key=f"federation.{key}")
        raise ConfigError("MDW-114", what, hint) from None


def _beside(key: str, value: str, folder: Path) -> str:
    """Return the path of a file or folder that lies with the federation's file."""
    parts = PurePosixPath(value).parts
    hidden = any(part.startswith((".", "~")) for part in parts)
    if not parts or hidden or "\\" in value or PurePosixPath(value).is_absolute():
        raise ValueError("is not the name of a file beside it")
    found = folder / value
    # A link in that folder may lead anywhere.
    if not found.resolve().is_relative_to(folder.resolve()):
        raise ValueError("leads out of the file's folder")
    return str(found)


def _refused(key: str, value: str, folder: Path) -> str:
    raise ValueError("says where things lie on the reader's disk")


def _outward(key: str, value: str, folder: Path) -> str:
    # A proxy of another's choice would be given the reader's password.
    raise ValueError("says how connections leave the reader's machine")


def _matching(pattern: re.Pattern[str], why: str) -> Rule:
    def rule(key: str, value: str, folder: Path) -> str:
        if not pattern.fullmatch(value) or "/../" in f"{value}/":
            raise ValueError(why)
        return value

    return rule


def _state(key: str, value: str, folder: Path) -> str:
    if "://" not in value:
        return _beside(key, value, folder)
    pattern = _DATASTORE if value.startswith("azureml:") else _CONTAINER
    return _matching(pattern, "is not a container of Azure's")(key, value, folder)


_is_name: Final = _matching(_NAME, "is not a name")
_is_host: Final = _matching(_HOST, "is not a host")

RULES: Final[dict[str, Rule]] = {
    r"file|folder|orchestrator\.read_from": _refused,
    r"orchestrator\.ca": _beside,
    r"silos\.[^.]+\.(public_key|admission|data\.root)": _beside,
    r"(silos\.[^.]+|orchestrator)\.outbound\.(ca|proxy|proxy_user|proxy_password)": _outward,
    r"silos\.[^.]+\.state": _state,
    r"silos\.[^.]+\.input\.path": _matching(_ASSET, "is not an asset of Azure ML"),
    r"orchestrator\.(store|rendezvous)": _matching(_CONTAINER, "is not a container of Azure's"),
    r"orchestrator\.tracking": _matching(_TRACKING, "is not an address of Azure ML's MLflow"),
    r"orchestrator\.(listen|stock_listen|stock_grpc_listen|host|address)": _is_host,
    r"orchestrator\.(compute|instance_type|datastore|key_vault|run_id)": _is_name,
    r"silos\.[^.]+\.(compute|instance_type|key_vault)": _is_name,
}
"""What a text must be, by its key; a test holds every text of the schema to being here or limited."""


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text of a plain value, keys of mappings included, with its dotted key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            at = f"{key}.{name}".lstrip(".")
            yield at, str(name)
            yield from _texts(inner, at)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
