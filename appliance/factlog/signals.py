# SPDX-License-Identifier: Apache-2.0
"""How a service ends: SIGTERM or SIGINT cancels its main loop, which puts everything in order."""

from __future__ import annotations

import signal

import trio


async def end_on_signal(scope: trio.CancelScope) -> None:
    """Cancel a scope at the first signal that asks this process to end; a task of the main nursery."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
