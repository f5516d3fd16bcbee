"""What Meadow's own nodes and orchestrator tell each other beside Flower's protocol; stock ones
ignore it.
"""

from __future__ import annotations

from typing import Final

NODE_HEADER: Final = "meadow-node"
"""Header of every call of Meadow's own nodes: they work on one instruction at a time, and read
packed records.
"""
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
PARTS_HEADER: Final = "meadow-parts"
"""Trailing header of an answer to a question for work: this server has the calls of
`strategies.wire.transfer_calls`."""
