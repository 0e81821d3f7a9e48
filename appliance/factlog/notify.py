# SPDX-License-Identifier: Apache-2.0
"""What a node tells the service manager: readiness, a line for people, and pings that prove its main loop.

The one module that speaks sd_notify (https://www.freedesktop.org/software/systemd/man/sd_notify.html), so that another
library is one change. Without ``NOTIFY_SOCKET`` in the environment everything here does nothing.
"""

from __future__ import annotations

import os

from sdnotify import SystemdNotifier


class ServiceManager:
    """Tells systemd about this process; each message only when there is something new to say."""

    def __init__(self) -> None:
        # The library opens a socket that it never closes, so it is made only where somebody listens.
        self._notifier = SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        self._ready = False
        self._text = ""

    def alive(self, *, ready: bool, text: str) -> None:
        """The main loop came round: ping the watchdog, say ``READY`` once, and the text when it is another."""
        messages = ["WATCHDOG=1"]
        if ready and not self._ready:
            self._ready = True
            messages.append("READY=1")
        if text != self._text:
            self._text = text
            messages.append(f"STATUS={text}")
        if self._notifier is not None:
            self._notifier.notify("\n".join(messages))

    def stopping(self) -> None:
        """The process is ending in good order; nothing is said after that."""
        if self._notifier is not None:
            self._notifier.notify("STOPPING=1")
            if self._notifier.socket is not None:
                self._notifier.socket.close()
            self._notifier = None
