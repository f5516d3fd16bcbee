"""Facts as the one JSON text that digests and signatures are taken of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical(facts: Mapping[str, Any]) -> bytes:
    """Return facts as JSON: keys sorted, no spaces, ASCII.

    Raises ValueError for NaN and infinities.
    """
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
