# SPDX-License-Identifier: Apache-2.0
"""The configurations of nats-control: the plant's, which dials out, and the hub's, which the plants dial.

**Plant.** The leaf connection ends in the account ``UPLINK``, which has no user and no JetStream. Only commands, RPC
and events pass between it and ``CTL``, where the local applications are. So a hub that lifts its own rules still sees
no local inbox, no JetStream API and no other subject.

**Hub.** Each zone has its own account; a leaf gets the account of the one DNS name in its certificate. ``CTL`` speaks
to a zone under ``zone.<zone>.``, a prefix that comes from the account and not from what the plant says. Answers to RPC
travel on ``_R_.>``, the broker's one-time reply subjects; no ``_INBOX`` crosses.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, identity_of, stream_token
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import MINIMUM
from appliance.brokers.config import (
    CONTROL_USER,
    SYSTEM_ACCOUNT,
    SYSTEM_USER,
    WRITE_DEADLINE,
    Limits,
    Local,
    Secrets,
    check_port,
    common,
    parse_address,
    socket_address,
    user,
)
from appliance.brokers.syntax import Value, render

CONTROL_ACCOUNT: Final = "CTL"
UPLINK_ACCOUNT: Final = "UPLINK"

EVENTS: Final = "dv.*.evt.>"
"""Events of services, and of tasks (``dv.task.evt.<verb>``): plant to hub."""
COMMANDS: Final = "dv.*.cmd.>"
"""Commands: hub to plant. The answer is that of whoever takes it, such as the plant's own durable stream."""
RPC: Final = "dv.rpc.>"
"""Narrow, fast questions: hub to plant, and the answer back."""
REPLIES: Final = "_R_.>"
"""One-time reply subjects the brokers make for each request between accounts."""
NEVER_CROSSING: Final = ("facts.>", "log.>", "dead.>", "$JS.>", "$KV.>", "$O.>", "$SYS.>", "_INBOX.>")
"""Denied on the leaf besides; nothing of it can reach the uplink account anyway."""

PROXY_TIMEOUT: Final = "10s"
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")

LEAVES_PER_ZONE: Final = 2
"""One, and one more for the moment in which a broken connection has not been noticed yet."""


def zone_account(zone: ZoneId) -> str:
    """The hub's account of a zone: ``plant-a`` is ``ZONE_PLANT_A``."""
    return f"ZONE_{stream_token(zone)}"


def zone_prefix(zone: ZoneId) -> str:
    """Where the hub finds a zone's control plane: ``zone.plant-a``."""
    return f"zone.{zone}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A session file (key, certificate, chain) and the hub CA that both sides trust."""

    session: Path
    hub_ca: Path

    def block(self) -> dict[str, Value]:
        """The fields both sides have in common. TLS 1.3, and no plain-text greeting before it."""
        return {
            "cert_file": str(self.session),
            "key_file": str(self.session),
            "ca_file": str(self.hub_ca),
            "handshake_first": True,
            "min_version": "1.3",
            "timeout": 5,
        }


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where the hub's leaf listener is: a numeric address, or the hub's identity (``enterprise-bsfg``) as a host name.

    nats-server checks the certificate against the host name it dials, and a hub's certificate has its identity as its
    only name. So another host name could never be connected to, and is refused here.

    A numeric address is dialled too, checked against the identity. But when a server with another name has answered at
    it once, nats-server forgets that name until it is restarted. Prefer the identity as host name (``/etc/hosts``).
    """

    zone: ZoneId
    host: str
    port: int

    def __post_init__(self) -> None:
        check_port(self.port)
        if self.host != identity_of(self.zone):
            parse_address(self.host)

    def urls(self) -> list[Value]:
        """What the leaf dials, in this order. The second one only tells which name to expect at the first."""
        named = f"tls://{identity_of(self.zone)}:{self.port}"
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return [named]
        return [f"tls://{socket_address(self.host, self.port)}", named]


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """An HTTP proxy that connects the leaf to the hub by CONNECT.

    nats-server looks the host up itself before it asks the proxy, and expects the certificate to have the name that it
    asked for. So behind a proxy the hub has a numeric address.

    :raises RefusedError: ``bad_input``: not a port, or no host.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        check_port(self.port)
        if not _HOST.fullmatch(self.host):
            parse_address(self.host)

    def block(self) -> dict[str, Value]:
        """The field ``proxy`` of a remote."""
        return {"url": f"http://{socket_address(self.host, self.port)}", "timeout": PROXY_TIMEOUT}


@dataclass(frozen=True, slots=True)
class ControlLeaf:
    """The declaration of a plant's nats-control. It starts and serves local clients with or without the hub."""

    zone: ZoneId
    listen: Local
    store: Path
    secrets: Secrets
    limits: Limits
    tls: TlsFiles
    hub: HubAddress
    proxy: ProxyAddress | None = None

    def render(self) -> str:
        """The configuration text for nats-server; it holds passwords."""
        document = common(f"{self.zone}-control", self.listen, self.store, self.limits, domain=self.zone)
        document["leafnodes"] = {"reconnect": "1s", "remotes": [self._remote()]}
        document["accounts"] = {
            CONTROL_ACCOUNT: {
                "jetstream": "enabled",
                "users": [user(CONTROL_USER, self.secrets.owner)],
                "exports": _exports(UPLINK_ACCOUNT),
            },
            UPLINK_ACCOUNT: {
                "imports": [
                    {"stream": {"account": CONTROL_ACCOUNT, "subject": EVENTS}},
                    {"service": {"account": CONTROL_ACCOUNT, "subject": COMMANDS}},
                    {"service": {"account": CONTROL_ACCOUNT, "subject": RPC}},
                ]
            },
            SYSTEM_ACCOUNT: {"users": [user(SYSTEM_USER, self.secrets.system)]},
        }
        return render(f"nats-control of zone {self.zone}. Generated; changes are overwritten.", document)

    def _remote(self) -> Value:
        return {
            "urls": self.hub.urls(),
            "no_randomize": True,
            "ignore_discovered_servers": True,  # the hub cannot send its plants elsewhere
            "account": UPLINK_ACCOUNT,
            "compression": "off",
            "first_info_timeout": "5s",
            "deny_imports": list(NEVER_CROSSING),
            "deny_exports": list(NEVER_CROSSING),
            "tls": self.tls.block(),
            **({} if self.proxy is None else {"proxy": self.proxy.block()}),
        }


@dataclass(frozen=True, slots=True)
class ControlHub:
    """The declaration of the hub's nats-control. :raises RefusedError: ``bad_input``: a zone twice, or the hub's own.

    :param leaf_host: numeric address of the leaf listener; every connection to it must present a certificate.
    :param authorities: PEM of the device CAs whose leaves are accepted, kept by the hub
        (:mod:`appliance.hub.leaf_guard`); ``None``: every device CA under the hub CA, denied or not.
    """

    zone: ZoneId
    listen: Local
    store: Path
    secrets: Secrets
    limits: Limits
    tls: TlsFiles
    leaf_host: str
    leaf_port: int
    zones: tuple[ZoneId, ...]
    authorities: Path | None = None

    def __post_init__(self) -> None:
        parse_address(self.leaf_host)
        check_port(self.leaf_port)
        if len({*self.zones, self.zone}) != len(self.zones) + 1:
            raise RefusedError(Reason.BAD_INPUT, "a zone is named twice, or is the hub itself")

    def render(self) -> str:
        """The configuration text for nats-server; it holds passwords."""
        document = common(f"{self.zone}-control", self.listen, self.store, self.limits, domain=self.zone)
        document["leafnodes"] = {
            "listen": socket_address(self.leaf_host, self.leaf_port),
            "no_advertise": True,
            "compression": "off",
            "isolate_leafnode_interest": True,
            "min_version": str(MINIMUM),
            "write_deadline": WRITE_DEADLINE,
            "tls": {**self.tls.block(), "ca_file": str(self.authorities or self.tls.hub_ca), "verify_and_map": True},
        }
        control: dict[str, Value] = {
            "jetstream": "enabled",
            "users": [user(CONTROL_USER, self.secrets.owner)],
            "imports": [entry for zone in self.zones for entry in _from_zone(zone)],
        }
        accounts: dict[str, Value] = {CONTROL_ACCOUNT: control}
        accounts.update({zone_account(zone): _zone(zone) for zone in self.zones})
        accounts[SYSTEM_ACCOUNT] = {"users": [user(SYSTEM_USER, self.secrets.system)]}
        document["accounts"] = accounts
        return render(f"nats-control of the hub {self.zone}. Generated; changes are overwritten.", document)


def _zone(zone: ZoneId) -> Value:
    """A zone's account: its leaf is the only user, and has no password, so only a certificate opens it."""
    leaf: Value = {
        "user": identity_of(zone),
        # Without this, the local listener would take the same user with an empty password.
        "allowed_connection_types": ["LEAFNODE"],
        "permissions": {
            "publish": {"allow": [EVENTS, REPLIES]},
            "subscribe": {"allow": [COMMANDS, RPC]},
        },
    }
    return {
        "limits": {"max_leafnodes": LEAVES_PER_ZONE},
        "users": [leaf],
        "exports": _exports(CONTROL_ACCOUNT),
    }


def _exports(to: str) -> Value:
    """The three things that cross between accounts: on the plant to its uplink, on the hub from a zone."""
    services: list[Value] = [{"service": subject, "accounts": [to]} for subject in (COMMANDS, RPC)]
    return [{"stream": EVENTS, "accounts": [to]}, *services]


def _from_zone(zone: ZoneId) -> list[Value]:
    """What the hub's control account takes from a zone, each under the zone's prefix."""
    account, prefix = zone_account(zone), zone_prefix(zone)
    taken: list[Value] = [{"stream": {"account": account, "subject": EVENTS}, "prefix": prefix}]
    taken += [
        {"service": {"account": account, "subject": subject}, "to": f"{prefix}.{subject}"}
        for subject in (COMMANDS, RPC)
    ]
    return taken
