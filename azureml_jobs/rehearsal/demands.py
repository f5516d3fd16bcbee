"""What a loopback cloud demands of its clients, as Azure does; each can be turned off alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Demands:
    """The settings of one cloud; a cloud's parts read them at each request.

    `client_id`: a cluster's identity endpoint gives no token to who does not name the identity.
    """

    client_id: bool = True
