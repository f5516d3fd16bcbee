"""Runs a command in a network of its own: a program that stands alone, with the library of Python.

    python -I isolated.py '{"address": "10.1.0.4", "imports": [...], "exports": [...]}' COMMAND...

A new network namespace has a loopback and nothing else: nobody comes in, nothing goes out. What is
declared passes through sockets in the file system, which know no namespaces:

    imports   [PORT, FOLDER]: a port in here leads out. Which of the network's addresses was dialled
              says through which socket: FOLDER/ADDRESS-PORT, or FOLDER itself where that is one.
    outward   whether it has one address alone, and a route on which all is dropped.
    exports   [PORT, SOCKET]: a socket out there leads to a port in here.
    read_only  folders and files that can't be written in here, whoever owns them.
    hosts     {NAME: ADDRESS}: names that are known in here, in the place of /etc/hosts.

Without a command it tries whether a namespace can be made, and ends with status 0 where it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

NEW_USER = 0x10000000
NEW_NET = 0x40000000
NEW_MOUNTS = 0x00020000
BIND, REMOUNT, READ_ONLY = 0x1000, 0x20, 0x1
KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_RELATIME
HOSTS = b"/etc/hosts"
SET_FLAGS, SET_ADDRESS, SET_MASK, ADD_ROUTE = 0x8914, 0x8916, 0x891C, 0x890B
UP_AND_RUNNING = 0x1 | 0x40
ROUTE_UP = 0x1
CHUNK = 1 << 16

JOINED: set[asyncio.Task[Any] | None] = set()
Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def enter() -> None:
    """Enter a new network namespace as the same user; raises OSError where that is not allowed."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER | NEW_NET | NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def name_hosts(hosts: dict[str, str]) -> None:
    """Let these names be known, and no other but localhost; raises OSError."""
    lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **hosts}.items()]
    # Nobody else sees the file that is mounted, so it needs no name once it is.
    with tempfile.NamedTemporaryFile("w") as file:
        file.writelines(lines)
        file.flush()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(file.name.encode(), HOSTS, None, BIND, None) != 0:
            raise OSError(ctypes.get_errno(), "mount")


def protect(path: str) -> None:
    """Mount a path read-only over itself; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = path.encode()
    # What the file system is mounted with can't be taken back here, so it is said again.
    flags = BIND | REMOUNT | READ_ONLY | (os.statvfs(path).f_flag & KEPT)
    for step in (BIND, flags):
        if libc.mount(where, where, None, step, None) != 0:
            raise OSError(ctypes.get_errno(), "mount", path)


def set_up(address: str, *, outward: bool) -> None:
    """Start the loopback, with this network's addresses beside 127.0.0.1.

    `outward`: one address alone, and a route to everywhere, which leads nowhere: a job that asks
    which address it has gets this one, as on a machine with a network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _ioctl(control, SET_FLAGS, struct.pack("16sh22x", b"lo", UP_AND_RUNNING))
        _ioctl(control, SET_ADDRESS, _named(b"lo:1", address))
        mask = "255.255.255.255" if outward else "255.255.255.0"
        _ioctl(control, SET_MASK, _named(b"lo:1", mask))
        if outward:
            anywhere = (ctypes.c_ubyte * 16).from_buffer_copy(_address("0.0.0.0"))
            device = ctypes.create_string_buffer(b"lo")
            route = Route(
                destination=anywhere,
                gateway=anywhere,
                mask=anywhere,
                flags=ROUTE_UP,
                device=ctypes.addressof(device),
            )
            _ioctl(control, ADD_ROUTE, bytes(route))


class Route(ctypes.Structure):
    """Linux's `struct rtentry`; a socket's address in it is 16 bytes."""

    _fields_ = (
        ("pad_1", ctypes.c_ulong),
        ("destination", ctypes.c_ubyte * 16),
        ("gateway", ctypes.c_ubyte * 16),
        ("mask", ctypes.c_ubyte * 16),
        ("flags", ctypes.c_ushort),
        ("pad_2", ctypes.c_short),
        ("pad_3", ctypes.c_ulong),
        ("pad_4", ctypes.c_void_p),
        ("metric", ctypes.c_short),
        ("device", ctypes.c_void_p),
        ("mtu", ctypes.c_ulong),
        ("window", ctypes.c_ulong),
        ("round_trip", ctypes.c_ushort),
    )


def _address(text: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _named(name: bytes, address: str) -> bytes:
    return struct.pack("16s16s8x", name, _address(address))


def _ioctl(control: socket.socket, request: int, what: bytes) -> None:
    fcntl.ioctl(control.fileno(), request, what)


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, then say so to the other side."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def joined(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    other: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
) -> None:
    """Join a connection to another one; the first is closed where there is no other."""
    task = asyncio.current_task()
    # The loop itself remembers no task: one whose first side has closed would be lost.
    JOINED.add(task)
    try:
        their_reader, their_writer = await other
    except OSError:
        writer.close()
        JOINED.discard(task)
        return
    try:
        await asyncio.gather(copied(reader, their_writer), copied(their_reader, writer))
    except asyncio.CancelledError:
        # The command has ended, and with it what it was connected to: no news for the job's log.
        return
    finally:
        JOINED.discard(task)
        for side in (writer, their_writer):
            side.close()


def outward(port: int, folder: str) -> Streams:
    """Return what a port in here does with a connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled = writer.get_extra_info("sockname")[0]
        path = folder
        if stat.S_ISDIR(os.stat(folder).st_mode):
            path = os.path.join(folder, f"{dialled}-{port}")
        await joined(reader, writer, asyncio.open_unix_connection(path))

    return connected


def inward(port: int) -> Streams:
    """Return what a socket out there does with a connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await joined(reader, writer, asyncio.open_connection("127.0.0.1", port))

    return connected


async def run(settings: dict[str, Any], command: list[str]) -> int:
    """Open what is declared, run the command and return its exit status."""
    for port, folder in settings["imports"]:
        await asyncio.start_server(outward(port, folder), "0.0.0.0", port)
    for port, path in settings["exports"]:
        await asyncio.start_unix_server(inward(port), path)
    # The group is ended as a whole; what the command says at its end still has to pass.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
    child = await asyncio.create_subprocess_exec(*command)
    status = await child.wait()
    return status if status >= 0 else 128 - status


def main(arguments: list[str]) -> int:
    """Do what this module's docstring says."""
    enter()
    settings: dict[str, Any] = {"address": "10.1.0.1", "outward": True, "hosts": {}}
    settings["read_only"] = [tempfile.gettempdir()]
    if arguments:
        settings = json.loads(arguments[0])
    name_hosts(settings["hosts"])
    for path in settings["read_only"]:
        protect(path)
    set_up(settings["address"], outward=settings["outward"])
    if len(arguments) < 2:
        return 0
    return asyncio.run(run(settings, arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
