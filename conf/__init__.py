"""What a run is: the typed schema, the YAML groups that fill it, and what may travel of it."""

from __future__ import annotations

from typing import Final

DISTRIBUTION: Final = "meadow-federated"
"""What the package index calls Meadow: another has the name `meadow` there."""
