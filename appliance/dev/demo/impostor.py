# SPDX-License-Identifier: Apache-2.0
"""Two boxes that are not the plant's dial the hub by the product's own client, and are told why they may not speak.

Both have every name right. The *stranger* comes from another CA. The *twin* has a device CA that the hub's own CA
signed, but for a key which the hub never enrolled: what somebody could make who had the CA's key for a moment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import Category
from appliance.boundary.pages import FetchRequest
from appliance.dev.environment import Environment, PortName
from appliance.dev.layout import ENTERPRISE, HOST, PLANT
from appliance.keys.certificates import Authority, new_device_ca, new_hub_ca, new_session
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.registry import LiveRegistry
from appliance.peer.client import ClientConfig, open_peer
from appliance.peer.tls import client_credential

IMPOSTORS: Final = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody dialled as the plant. :param reason: why the hub refused; empty: it did not."""

    who: str
    reason: str
    detail: str

    @property
    def verdict(self) -> str:
        """What became of it, in one line."""
        return f"refused, {self.reason} ({self.detail})" if self.reason else "LET IN"


def impersonate(environment: Environment, hub_ca: Authority) -> Sequence[Attempt]:
    """Dial the hub as stranger and as twin. Blocking.

    :param hub_ca: the hub's CA with its key: a file of development.
    """
    now = datetime.now(UTC)
    stranger, twin = new_device_ca(new_hub_ca(now), PLANT, now), new_device_ca(hub_ca, PLANT, now)
    with tempfile.TemporaryDirectory(prefix="bsfg-impostor-") as folder:
        attempts = []
        for who, device_ca in (("a key of another CA", stranger), ("a key never enrolled", twin)):
            session = Path(folder) / "session.pem"
            write_atomically(session, new_session(device_ca, PLANT, now).pem(), PRIVATE)
            attempts.append(trio.run(_dial, environment, who, session))
    return attempts


async def _dial(environment: Environment, who: str, session: Path) -> Attempt:
    """Ask the hub for facts of the plant, through the link."""
    pki = PkiFolder(environment.layout.zone(PLANT).pki)
    registry = LiveRegistry(pki)
    registry.refresh()
    config = ClientConfig(
        PLANT,
        ENTERPRISE,
        HOST,
        environment.ports[PortName.LINK_RPC],
        lambda: client_credential(session, pki.hub_ca),
        registry,
    )
    request = FetchRequest(Category("operational"), max_facts=1)
    try:
        async with open_peer(config) as peer:
            await peer.fetch_page(PLANT, request)
    except BsfgError as error:
        return Attempt(who, error.reason, error.detail)
    return Attempt(who, "", "")
