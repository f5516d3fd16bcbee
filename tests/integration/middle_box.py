"""What stands between a site and the relay, as a process: a filter by name, a proxy, a proxy that inspects.

python -m tests.integration.middle_box filter LISTEN TO NAME CUT_AFTER
python -m tests.integration.middle_box proxy LISTEN TO USER PASSWORD
python -m tests.integration.middle_box inspect LISTEN TO FOLDER TRUSTED
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from pathlib import Path

from tests.azureml_jobs.relay.proxies import Proxy
from tests.azureml_jobs.relay.public_ca import PublicCa


async def filter_by_name(listen: str, to: str, name: str, cut_after: float) -> None:
    """Let TLS through whose ClientHello names one host; cut each connection after some seconds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            hello = await reader.readexactly(5)
            hello += await reader.readexactly(int.from_bytes(hello[3:5], "big"))
            if name.encode() not in hello:
                print("refused", flush=True)
                writer.close()
                return
            host, _, port = to.rpartition(":")
            up, other = await asyncio.open_connection(host, int(port))
            other.write(hello)
            async with asyncio.timeout(cut_after or None):
                await asyncio.gather(_copy(reader, other), _copy(up, writer))
        for end in (writer, other):
            if end is not None:
                end.transport.abort()

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(serve, host, int(port))
    print("listens", flush=True)
    await server.serve_forever()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    raise EOFError


def main() -> None:
    """Be one of them until the process is ended."""
    kind, listen, to, *more = sys.argv[1:]
    if kind == "filter":
        asyncio.run(filter_by_name(listen, to, more[0], float(more[1])))
        return
    host, _, port = listen.rpartition(":")
    if kind == "proxy":
        proxy = Proxy((more[0], more[1]), to=to, host=host, port=int(port))
    else:
        inspecting = PublicCa.loaded(Path(more[0]))
        proxy = Proxy(
            None, inspect=inspecting, trusted=Path(more[1]), to=to, host=host, port=int(port)
        )
        proxy.tell = lambda data: print(repr(data[:60]), flush=True)
    with proxy:
        print("listens", flush=True)
        ssl.create_default_context()
        asyncio.run(asyncio.Event().wait())


if __name__ == "__main__":
    main()
