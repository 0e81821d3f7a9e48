# SPDX-License-Identifier: Apache-2.0
"""A relay before a software TPM that lets each command wait: ``python -m tests.bench.slow_tpm PORT TPM_PORT SECONDS``.

It **simulates** a slow TPM: one that needs so much longer for every command, whichever it is. A real one needs a few
milliseconds for most, and 30 to 150 for a signature. The control channel (port + 1) passes without waiting.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

Serve = Callable[[trio.SocketStream, trio.SocketStream], Awaitable[None]]
_HEAD: Final = struct.Struct(">HI")
"""Tag and length, with which commands and answers begin (TPM 2.0 part 1, 18.2)."""


async def main(port: int, tpm_port: int, wait_s: float) -> None:
    """Serve until the process is ended."""
    async with trio.open_nursery() as nursery:
        serves: tuple[Serve, ...] = (partial(_commands, wait_s=wait_s), _bytes)
        for offset, serve in enumerate(serves):
            relay = partial(_relay, target=tpm_port + offset, serve=serve)
            await nursery.start(partial(trio.serve_tcp, relay, port + offset, host="127.0.0.1"))


async def _relay(client: trio.SocketStream, target: int, serve: Serve) -> None:
    try:
        async with client, await trio.open_tcp_stream("127.0.0.1", target) as tpm:
            await serve(client, tpm)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # one of both is gone


async def _commands(client: trio.SocketStream, tpm: trio.SocketStream, wait_s: float) -> None:
    """One command, one wait, one answer."""
    while command := await _frame(client):
        await trio.sleep(wait_s)
        await tpm.send_all(command)
        if not (answer := await _frame(tpm)):
            return
        await client.send_all(answer)


async def _bytes(client: trio.SocketStream, tpm: trio.SocketStream) -> None:
    """Both directions, as they come."""
    async with trio.open_nursery() as nursery:

        async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            async for data in source:
                await sink.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, client, tpm)
        nursery.start_soon(copy, tpm, client)


async def _frame(stream: trio.SocketStream) -> bytes:
    """A whole command or answer; empty at the end."""
    data = b""
    while len(data) < _HEAD.size or len(data) < _HEAD.unpack_from(data)[1]:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        data += more
    return data


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
