# SPDX-License-Identifier: Apache-2.0
"""TLS contexts of a node with software keys, for tests that shake hands by themselves."""

from __future__ import annotations

import ssl

from appliance.keys.software import SoftwareKeys
from appliance.peer.tls import client_credential, server_credential


def serving(keys: SoftwareKeys) -> ssl.SSLContext:
    """The context in which this zone serves peers."""
    return server_credential(keys.folder.session, keys.folder.hub_ca).context


def calling(keys: SoftwareKeys) -> ssl.SSLContext:
    """The context in which this zone calls the hub."""
    return client_credential(keys.folder.session, keys.folder.hub_ca).context
