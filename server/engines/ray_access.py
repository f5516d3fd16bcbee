"""Who may talk to Ray: its ports are open to every machine around, so each call has to bring a
token.

Ray listens on all interfaces, and whoever may call it can run code as the user who started it. Ray
that Meadow starts takes no call without a token of that run's own; a cluster that answers without
one is refused.

This module does not import Ray until the environment that Ray reads at import is set.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import grpc

from conf.errors import SiloError
from conf.files.whole import write_new
from conf.host_port import is_loopback

MODE: Final = "RAY_AUTH_MODE"
TOKEN: Final = "RAY_AUTH_TOKEN"
TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"
ADDRESS: Final = "RAY_ADDRESS"
CONNECT_SECONDS: Final = 5.0
"""For an existing cluster to answer; Ray itself would wait for minutes, deaf to signals."""
QUESTION: Final = "/ray.rpc.InternalKVGcsService/InternalKVKeys"
"""A call that Ray's head node takes from anybody who is let in: the door through which code gets
in.
"""


@contextlib.contextmanager
def own_token(folder: Path) -> Iterator[None]:
    """Let the Ray started inside ask for a token that only this user can read, in a file of a
    private folder.

    A token that the user has for a cluster of their own is neither read nor sent.
    """
    path = folder / "token"
    write_new(path, secrets.token_hex(32))
    with _environment({MODE: "token", TOKEN_PATH: str(path)}, without=(TOKEN, ADDRESS)):
        yield


@contextlib.contextmanager
def cluster_access(address: str, insecure: bool) -> Iterator[None]:
    """Let the Ray used inside reach the cluster at HOST:PORT with the user's own token, wherever
    they keep it.

    Raises SiloError MDW-322 where nothing answers, and MDW-313 where it answers without a token
    unless `insecure` is set; then no token is sent.
    """
    open_to_all = _answers_anybody(address)
    if open_to_all and not insecure:
        raise SiloError(
            "MDW-313",
            f"The Ray cluster at simulation.ray_address={address} takes calls without a token: anybody who reaches "
            "it can run code there, and read what a run trains on.",
            "Start it with RAY_AUTH_MODE=token, or accept that with simulation.ray_insecure=true.",
        )
    mode = "disabled" if open_to_all else "token"
    with _environment({MODE: mode}, without=(ADDRESS,)):
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str], without: tuple[str, ...]) -> Iterator[None]:
    """Set what Ray reads, and give back what was there; a Ray that is imported already reads it
    anew.
    """
    with mock.patch.dict(os.environ, values):
        for name in without:
            os.environ.pop(name, None)
        _read_anew()
        _check_mode(values[MODE])
        yield
    _read_anew()


def _read_anew() -> None:
    if "ray" not in sys.modules:
        return
    # Compiled, and only partly described to type checkers.
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_mode(wanted: str) -> None:
    """Raise SiloError MDW-314 where Ray does not do as the environment says: another Ray, or one
    built without it.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if is_token_auth_enabled() != (wanted == "token"):
        raise SiloError(
            "MDW-314",
            "Ray does not take the setting by which it asks for a token.",
            "Start a new process, with the release of Ray that Flower asks for, or use simulation=pool.",
        )


def _answers_anybody(address: str) -> bool:
    """Whether the head node at HOST:PORT takes a call that brings no token.

    Raises SiloError MDW-322 on silence.
    """
    try:
        with grpc.insecure_channel(address, _options(address)) as channel:
            channel.unary_unary(QUESTION)(b"", timeout=CONNECT_SECONDS)
    except grpc.RpcError as error:
        status = error.code()
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return False
        # Any other answer of a server, such as a complaint about the question, came without asking
        # who we are.
        if status not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return True
        raise SiloError(
            "MDW-322",
            f"There is no Ray cluster at simulation.ray_address={address}: {error.details()}.",
            "Give the HOST:PORT that `ray start --head` printed, or none for a private Ray.",
        ) from error
    return True


def _options(address: str) -> list[tuple[str, int]]:
    """Return how a channel is opened: past a proxy, where the cluster is on this machine."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []
