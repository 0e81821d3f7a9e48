# SPDX-License-Identifier: Apache-2.0
"""The keys a node runs on, by its configuration. Making them reads no secret of a keeper and asks nobody."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from appliance.boundary.ports import KeysPort
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.keys import KeeperKeys
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.registry import LiveRegistry
from appliance.keys.software import SoftwareKeys
from appliance.node.config import NodeConfig
from appliance.node.standing import BoundaryNow, Standing
from appliance.peer.tls import SessionFiles


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What signs and verifies here, and what proves this node at the boundary.

    :param keeper: ``None`` with software keys.
    """

    port: KeysPort
    standing: Standing
    keeper: KeeperPort | None


def open_keys(config: NodeConfig) -> NodeKeys:
    """The keys of a node; a hub serves with its session, an agent calls with it.

    :raises BsfgError: software keys that cannot be used; with a keeper nothing is wrong yet.
    """
    keys, serves = config.keys, config.listen is not None
    folder = PkiFolder(keys.pki_dir)
    side = ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT
    session = SessionFiles(side, keys.session, folder.hub_ca)
    if keys.socket is None:
        software = SoftwareKeys.load(config.zone, keys.pki_dir)
        standing = Standing("software", session, software.registry, BoundaryNow(wall=True), software=software)
        return NodeKeys(software, standing, None)
    registry, keeper = LiveRegistry(folder), KeeperClient(keys.socket)
    standing = Standing("keeper", session, registry, BoundaryNow(wall=serves), keeper=keeper)
    return NodeKeys(KeeperKeys(keeper, registry, "keeper"), standing, keeper)
