"""Who this process is: the settings of the silo that a message has reached."""

from __future__ import annotations

import json
import os
import stat
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from conf.errors import SiloError
from conf.files.homes import expanded
from conf.files.plain import opened_plain
from conf.files.whole import write_new
from conf.schema import Silo
from conf.silos import silo_from_json, silo_to_json

MAX_BYTES = 1 << 26
"""Of such a file: 64 MiB, some 100,000 silos."""

DATA_KEY = "data-key"
"""Key of the node configuration that holds the key of the data's fingerprint, in hex, set by our own
node.
"""
NODE_KEY = "silo"
"""Key of the node configuration that holds the silo as JSON, set by our own node and engines."""


def silo_of(context: Context) -> Silo:
    """Return the silo that this context belongs to.

    Looked for in the node's own configuration, then in what a simulation on this machine left for
    its workers; a bare Flower simulation gets generated silos with the defaults of this tree.
    Raises SiloError MDW-301 for a node that has neither a name nor a partition.
    """
    node = context.node_config
    if NODE_KEY in node:
        return _parsed(str(node[NODE_KEY]))
    if "partition-id" not in node:
        raise SiloError(
            "MDW-301",
            "This node does not know which silo it is.",
            "Start it with --node-config \"silo='{...}'\" or as a partition of a simulation.",
        )
    index, of = int(node["partition-id"]), int(node.get("num-partitions", 1))
    handed_over = _handed_over(context.run_id)
    return handed_over[index] if handed_over else Silo(name=f"silo-{index + 1}", index=index, of=of)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Silo:
    """Return the silo that a text says, parsed once for all its messages; nobody changes it."""
    return silo_from_json(text)


def data_key(context: Context) -> bytes:
    """Return the key with which this silo makes its data's fingerprint; empty in a simulation."""
    return bytes.fromhex(str(context.node_config.get(DATA_KEY, "")))


def hand_over(silos: list[Silo], run_id: int) -> Path:
    """Leave the silos' settings where this user's client processes of Flower's run `run_id` find
    them: in Flower's own home, which is no place that another user can make first.

    Used where Flower itself starts those processes and gives them nothing but a partition number.
    Returns the file, to be removed when the run ends. Raises SiloError MDW-325 where the folder is
    not this user's alone.
    """
    path = _hand_over_path(run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path.parent, os.lstat(path.parent))
    path.unlink(missing_ok=True)
    write_new(path, json.dumps([silo_to_json(silo) for silo in silos]).encode())
    return path


def _handed_over(run_id: int) -> tuple[Silo, ...]:
    return _all_parsed(_read(_hand_over_path(run_id)))


@lru_cache(maxsize=4)
def _all_parsed(text: str) -> tuple[Silo, ...]:
    """Return the silos of a file's text, parsed once for all messages to all of them."""
    return tuple(silo_from_json(one) for one in json.loads(text)) if text else ()


def _read(path: Path) -> str:
    """Return what a file of this user says, or nothing where there is none.

    What is looked at is the open file, and no link is followed: nobody can swap it in between.
    Raises SiloError MDW-325 where another user may have written it.
    """
    try:
        _check_private(path.parent, os.lstat(path.parent))
        with opened_plain(path) as (file, found):
            _check_private(path, found)
            return file.read(MAX_BYTES).decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _not_private(path) from error


def _check_private(path: Path, found: os.stat_result) -> None:
    plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    if plain and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return
    raise _not_private(path)


def _not_private(path: Path) -> SiloError:
    return SiloError(
        "MDW-325",
        f"{path}, which says what each silo of this simulation is, is not this user's alone.",
        "Remove it, or set FLWR_HOME to a folder of your own.",
    )


def _hand_over_path(run_id: int) -> Path:
    home = os.environ.get("FLWR_HOME")
    flower = Path(home) if home else expanded("~/.flwr")
    return flower / "meadow" / f"silos-{run_id}.json"
