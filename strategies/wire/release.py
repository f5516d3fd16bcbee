"""Which release of Flower a caller runs: how a call says it, and how a server that takes no such
release says so.

The headers and the refusal are Flower's own (`flwr.supercore.runtime_version_compatibility`),
written down here because the modules that hold them bring a web framework along.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from flwr.supercore.constant import (
    FLWR_COMPONENT_NAME_METADATA_KEY,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
)
from flwr.supercore.version import package_name, package_version

INCOMPATIBLE: Final = 1001
"""The number of such a refusal among Flower's errors (`ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE`).
"""
UNKNOWN: Final = "unknown"
"""Stands for the version of a caller whose headers can't be read."""
_PACKAGES = ("flwr", "flwr-nightly")
_HEADERS = (
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
    FLWR_COMPONENT_NAME_METADATA_KEY,
)


def our_version() -> str:
    """Return the version of the Flower that is installed here."""
    return package_version


def release_headers(component: str) -> tuple[tuple[str, str], ...]:
    """Return the headers by which a call says its Flower; `component` is Flower's name of the
    caller's part.
    """
    return tuple(zip(_HEADERS, (package_name, our_version(), component), strict=True))


def release_of(headers: Iterable[tuple[str, Any]]) -> str | None:
    """Return the version that a call says, None where it says none, `UNKNOWN` where what it says is
    malformed.
    """
    said = [(name, value) for name, value in headers if name in _HEADERS]
    if not said:
        return None
    values = dict(said)
    # Flower demands all three, and each of them once.
    if len(said) != len(_HEADERS) or len(values) != len(_HEADERS):
        return UNKNOWN
    if values[FLWR_PACKAGE_NAME_METADATA_KEY] not in _PACKAGES:
        return UNKNOWN
    version = values[FLWR_PACKAGE_VERSION_METADATA_KEY]
    return version if isinstance(version, str) else UNKNOWN


def refusal(why: str) -> str:
    """Return the details of an answer that refuses a caller's release, as Flower's nodes read them."""
    message = "Another version of Flower."
    return json.dumps({"code": INCOMPATIBLE, "public_message": message, "public_details": why})


def why_refused(details: str) -> str | None:
    """Return why a server refuses this release, from the details of its answer; None where it says
    something else.
    """
    try:
        said = json.loads(details)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("code") != INCOMPATIBLE:
        return None
    return f"{said.get('public_message', '')} {said.get('public_details') or ''}".strip()
