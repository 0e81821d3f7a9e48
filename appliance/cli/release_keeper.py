# SPDX-License-Identifier: Apache-2.0
"""What ``bsfg release`` asks the keeper of a box for."""

from __future__ import annotations

from pathlib import Path

from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import KeeperStatus
from appliance.keys.release import ReleaseRequest
from appliance.keys.release_request import request_of
from appliance.keys.tpm.public import Digest


async def make_request(socket: Path, evidence: Digest) -> ReleaseRequest:
    """The request of the box whose keeper has this socket. :raises BsfgError: as the keeper says."""
    return await request_of(KeeperClient(socket), evidence)


async def hand_in(socket: Path, release: bytes) -> KeeperStatus:
    """Give the keeper a release; its status afterwards. :raises BsfgError: as the keeper says."""
    keeper = KeeperClient(socket)
    await keeper.import_release(release)
    return await keeper.status()
