"""What Meadow's own nodes and orchestrator tell each other beside Flower's protocol; stock ones
ignore it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

NODE_HEADER: Final = "meadow-node"
"""Header of every call of Meadow's own nodes: they work on one instruction at a time, and read
packed records. Its value is another for each process, so that two with the same key are told apart.
"""
TWIN_HEADER: Final = "meadow-twin"
"""Trailing header of an empty answer to a question for work: another process with the same key is
given the work.
"""
WORKING_HEADER: Final = "meadow-working"
"""Header of a heartbeat: the content (object id) of the instruction that the node works on."""
CLOSED_HEADER: Final = "meadow-closed"
"""Trailing header of the answer to such a heartbeat: nobody waits for that content any more."""
OVER_HEADER: Final = "meadow-over"
"""Trailing header of an empty answer to a question for work: the federation is over."""
WIRE_VERSION: Final = "meadow-wire"
RUN_CODE: Final = "meadow-code"
RUN_RELEASE: Final = "meadow-release"
RUN_FILES: Final = "meadow-files"
"""Trailing headers of the description of a run, which `strategies.wire.run_code` writes and reads.
"""
KEY_ENDS: Final = "meadow-key-ends"
"""Trailing header of an answer to a question for work: when the key that asks will not be admitted
any more (seconds since 1970); sent when that is near."""
PARTS_HEADER: Final = "meadow-parts-behind"
"""Trailing header of an answer to a question for work: this server has the calls of
`strategies.wire.transfer_calls`, with the bytes behind a head. A side that does not know it moves
whole objects by Flower's calls."""
BEGUN_HEADER: Final = "meadow-begun"
"""Trailing header of the answer to a reply's head: of which objects the server has the first bytes
and misses the rest, as `id=bytes` with commas between; empty where there is none."""
CALL_CHALLENGE: Final = "meadow-challenge-bin"
CALL_NUMBER: Final = "meadow-call"
CALL_TIME: Final = "meadow-time"
CALL_SIGNATURE: Final = "meadow-signature"
"""Headers of each call of Meadow's own nodes to Meadow's orchestrator: which challenge it answers,
the number of the call, the node's clock (seconds since 1970), and the signature of all of it
(`azureml_jobs.identity.call_signature`). The first and the third stand in a challenge, too."""
CALL_SERVER: Final = "meadow-server-bin"
"""Trailing header of a challenge: the server's certificate, in PEM."""
NEEDS_CHALLENGE: Final = "MDW-760"
"""With this begins the refusal that brings a challenge."""

_BEGUN = re.compile(r"([0-9a-f]{64})=([0-9]{1,15})")


def begun_to_header(begun: Mapping[str, int]) -> str:
    """Return the value of `BEGUN_HEADER`."""
    return ",".join(f"{id}={count}" for id, count in begun.items())


def begun_from_header(value: str) -> dict[str, int]:
    """Return the bytes by object id that a `BEGUN_HEADER` tells; what is not of its form is left out."""
    found = [_BEGUN.fullmatch(one) for one in value.split(",")]
    return {one[1]: int(one[2]) for one in found if one is not None}
