# SPDX-License-Identifier: Apache-2.0
"""The local keys of a box: their sealed root opened, and what follows from it handed to nats-facts and the agent.

The root is made once, on a box that has handed out nothing yet. One that cannot be opened stays where it is: it may
open again (another image, another firmware setting), and a new one would make every local credential worthless.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.layout import BoxLayout, User
from appliance.box.sealing import RootSeal
from appliance.keys.files import GROUP, PRIVATE, locked, replace_file, write_atomically
from appliance.keys.local.root import ROOT_BYTES
from appliance.keys.local.store import LocalKeys
from appliance.node.local import BOX_LIMITS, broker_trust
from appliance.site.config import SiteConfig

FOR_AGENT: Final = ("agent.creds", "sys.creds", "tokens.json")
LISTENERS: Final = "server.pem"
AUTHORITY: Final = "ca.pem"


@contextmanager
def opened_root(layout: BoxLayout, seal: RootSeal) -> Iterator[Path]:
    """A file with the root, in memory alone and gone with the block; for :meth:`LocalKeys.open`.

    :raises UnavailableError: ``bad_local_keys``: it does not open, or was lost.
    """
    text = _sealed_root(layout, seal)
    handle = os.memfd_create("bsfg-local-root", os.MFD_CLOEXEC)
    try:
        os.write(handle, text)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _sealed_root(layout: BoxLayout, seal: RootSeal) -> bytes:
    layout.local.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = layout.local_root_sealed
    with locked(layout.local):
        if path.exists():
            return seal.open(path.read_bytes())
        if (layout.local / "applications.json").exists():
            raise UnavailableError(
                Reason.BAD_LOCAL_KEYS, f"{path} is lost; nothing that was handed out can be used without it"
            )
        text = secrets.token_bytes(ROOT_BYTES).hex().encode() + b"\n"
        sealed = seal.seal(text)
        if seal.open(sealed) != text:  # before anything hangs on it
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, "what was sealed does not open again")
        write_atomically(path, sealed, PRIVATE)
        return text


@dataclass(frozen=True, slots=True)
class Handing:
    """Hands out to services what each needs, into its own folder of this boot, readable by its own group.

    :param own_groups: whether files are given to those groups; only root can.
    """

    layout: BoxLayout
    site: SiteConfig
    own_groups: bool

    def hand_out(self, keys: LocalKeys, now: datetime) -> list[Path]:
        """Write what changed; those files. Trust comes last: with it nats-facts can start."""
        at = self.layout
        changed = []
        if self.site.listener is not None:
            authority = keys.authority()
            authority.ensure_server([self.site.listener.address], now)
            changed += self._copy(User.AGENT, at.agent_run, AUTHORITY, LISTENERS)
            changed += self._copy(User.FACTS, at.facts_run, LISTENERS)
        changed += self._copy(User.AGENT, at.agent_run, *FOR_AGENT)
        changed += self._write(User.FACTS, at.trust, broker_trust(keys, BOX_LIMITS).render().encode())
        return changed

    def _copy(self, user: User, folder: Path, *names: str) -> list[Path]:
        return [
            path for name in names for path in self._write(user, folder / name, (self.layout.local / name).read_bytes())
        ]

    def _write(self, user: User, path: Path, data: bytes) -> list[Path]:
        if path.is_file() and path.read_bytes() == data:
            return []
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        replace_file(path, data, GROUP, int(user) if self.own_groups else None)
        return [path]
