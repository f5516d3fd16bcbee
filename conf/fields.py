"""The fields of the schema: a default, what a value must be, and one text that says what it is for.

The text (`help`) is what `meadow VERB --help`, docs/configuration.md and errors say of a key:
begin it with a small letter, leave the full stop out, and say what `null` means where a key may be
null. `also` are words that people from elsewhere use for the same key (`learning_rate` for `lr`);
a misspelt key is compared with them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def value(default: Any, *, help: str = "", also: tuple[str, ...] = ()) -> Any:
    """A field whose type says all that there is to check."""
    return field(default=default, metadata={"help": help, "also": also})


def number(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    help: str = "",
    also: tuple[str, ...] = (),
) -> Any:
    """A numeric field with its limits; None is allowed where the annotation allows it."""
    limits = {"above": above, "at_least": at_least, "at_most": at_most}
    return field(default=default, metadata={**limits, "help": help, "also": also})


def one_of(
    default: str | None,
    *others: str,
    help: str = "",
    also: tuple[str, ...] = (),
    formerly: Mapping[str, str] = NOTHING,
) -> Any:
    """A string field that takes one of the listed values; the first is the default.

    `formerly` says what `true` and `false` mean in a field that was a switch in earlier releases.
    """
    values = tuple(one for one in (default, *others) if one is not None)
    metadata = {"one_of": values, "help": help, "also": also, "formerly": formerly}
    return field(default=default, metadata=metadata)


def as_now(value: Any, metadata: Mapping[str, Any]) -> Any:
    """Return a field's value as this release writes it: what was written when it was a switch is
    still in files, in policies and in messages of other releases.

    YAML reads `off` as false, and OmegaConf makes the text `False` of that.
    """
    formerly = metadata.get("formerly") or NOTHING
    if isinstance(value, bool | str):
        return formerly.get(str(value).lower(), value)
    return value


def text(
    default: str | None, pattern: str, wanted: str, *, help: str = "", also: tuple[str, ...] = ()
) -> Any:
    """A text field that matches `pattern` as a whole; `wanted` says in words what that is."""
    matched = {"pattern": pattern, "wanted": wanted}
    return field(default=default, metadata={**matched, "help": help, "also": also})


def entries(
    factory: Callable[[], Any], *, help: str = "", also: tuple[str, ...] = (), **checks: Any
) -> Any:
    """A field that holds a list or a mapping; `checks` apply to each entry.

    `keys_of` names the dataclass whose keys a mapping may have.
    """
    return field(default_factory=factory, metadata={**checks, "help": help, "also": also})


def section(cls: type[Any], *, help: str = "") -> Any:
    """A field that holds another dataclass with its defaults; without `help` its docstring says it."""
    return field(default_factory=cls, metadata={"help": help})


YEAR = 366 * 86400.0
"""Seconds: the ceiling of every wait."""
MOST_ROUNDS = 1_000_000
MOST_SILOS = 100_000
MOST_EXAMPLES = 1_000_000
"""Of a batch, and batches of a step."""
MOST_THREADS = 1024
"""Also of processes, GPUs and nodes."""
MOST_EPOCHS = 10_000

NAME = r"[A-Za-z_]\w*"
DOTTED = rf"{NAME}(\.{NAME})+"
FILE = r"[a-z][a-z0-9_]{0,63}"
FILE_IN_WORDS = "small letters, digits and '_'"
OUTSIDE = r"[A-Za-z_]\w{0,63}\.[A-Za-z_]\w{0,63}"
"""Names of what comes from outside this tree, such as `wine.Wine`."""
NAMED = rf"{FILE}|{OUTSIDE}"
NAMED_IN_WORDS = f"{FILE_IN_WORDS}, or FILE.Class for what is from outside this tree"
TARGET = rf"({DOTTED}|\S.*:{NAME})?"
TARGET_IN_WORDS = "FILE.py:Class, FOLDER:Class or package.module.Class"
SHA256 = r"[0-9a-f]{64}"


def name_of_a_file(default: str, *, help: str = "") -> Any:
    """A text field that names a Python file of one of our rooms, or what is from outside them."""
    return text(default, NAMED, NAMED_IN_WORDS, help=help)


def target(*, help: str) -> Any:
    """A text field that says where a class from outside this tree is; empty = nowhere."""
    also = ("path", "class_path", "_target_")
    return text("", TARGET, TARGET_IN_WORDS, help=help, also=also)


def code(*, help: str) -> Any:
    """A text field that holds the digest of code from outside this tree; filled in by compose."""
    return text("", rf"({SHA256})?", "a SHA-256 in hex", help=help)


def storage(default: str | None, *, help: str = "") -> Any:
    """A text field that names a place for what must last: a folder or a blob container."""
    return text(
        default,
        r"(?s)https://[^/]+/.+|azureml://datastores/[\w-]+(/paths/.*)?|(?!\w+:).*\S.*",
        "a folder, https://ACCOUNT.blob.core.windows.net/CONTAINER, or azureml://datastores/NAME",
        help=help,
    )


def size(*, help: str) -> Any:
    """A text field that says how many bytes, such as `8g`; null where nothing is said."""
    return text(None, r"[1-9]\d{0,8}[kmg]", "a size such as 8g", help=help)


def device(default: str | None, *, help: str = "") -> Any:
    """A text field that names a device as torch does; whether it is there shows where it trains."""
    pattern = r"auto|cpu|mps|cuda(:[0-9]+)?"
    return text(default, pattern, "auto, cpu, mps, cuda or cuda:N", help=help, also=("gpu",))
