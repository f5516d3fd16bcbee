"""The socket that tells the door of each connection before its TLS."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from azureml_jobs.relay.door import Door
from azureml_jobs.relay.guarded_socket import listening
from azureml_jobs.relay.settings import settings_of


def test_a_connection_is_a_strangers_from_its_accept_on_and_can_be_ended() -> None:
    raw = {"name": "relay", "strangers": 1, "federations": {"a": {"ca": ["ca.pem"]}}}
    door = Door(settings_of(raw, Path("/"), "a test"), time.monotonic)
    with listening("127.0.0.1:0", door) as server:
        address = server.getsockname()
        server.setblocking(True)
        with (
            socket.create_connection(address) as first,
            socket.create_connection(address) as second,
        ):
            one, _ = server.accept()
            assert len(door) == 1
            two, peer = server.accept()
            assert len(door) == 1
            first.settimeout(5)
            # The older one is ended from under whoever holds it.
            assert first.recv(1) == b""
            door.leaves(peer[:2])
            assert len(door) == 0
            one.close()
            two.close()
            assert second.fileno() >= 0
