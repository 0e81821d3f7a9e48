# SPDX-License-Identifier: Apache-2.0
"""What every broker of ours is told: where it listens, how much it may take, who may speak to it.

The declarations are typed and checked when they are made; :mod:`appliance.brokers.facts` and
:mod:`appliance.brokers.control` turn them into nats-server's configuration text.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.brokers.syntax import Value

AGENT_USER: Final = "agent"
"""The one user of the account that holds the facts, in nats-facts."""
CONTROL_USER: Final = "control"
"""The one user of the account that holds commands and events, in nats-control."""
SYSTEM_USER: Final = "sys"
"""The one user of the system account; it asks the broker about itself."""
SYSTEM_ACCOUNT: Final = "SYS"

MIB: Final = 1024 * 1024
MAX_PAYLOAD: Final = MIB + 64 * 1024
"""Bytes of one message with its headers: a chunk of 1 MiB and its headers fit.

A fact is far smaller (256 KiB), but the broker ends the connection of a client that sends more than this, and a
producer whose fact is a little too large is better told ``too_large``.
"""
WRITE_DEADLINE: Final = "10s"
"""How long a client may leave its data unread before it is cut off."""
RESERVED_CONNECTIONS: Final = 16
"""Connections that local applications can never take from the agent."""

_PASSWORD = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one broker, in bytes and connections; nothing is left to the server's guess from the disk's size."""

    max_file_store: int
    max_memory_store: int = 64 * MIB
    max_connections: int = 2048

    def __post_init__(self) -> None:
        if self.max_file_store < MIB or self.max_memory_store < MIB:
            raise RefusedError(Reason.BAD_INPUT, "a broker needs at least 1 MiB of file store and of memory store")
        if self.max_connections <= RESERVED_CONNECTIONS:
            raise RefusedError(Reason.BAD_INPUT, f"max_connections must be above {RESERVED_CONNECTIONS}")


@dataclass(frozen=True, slots=True)
class Local:
    """A plain-text listener for this machine alone. :raises RefusedError: ``bad_input``: not loopback, not a port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not parse_address(self.host).is_loopback:
            raise RefusedError(Reason.BAD_INPUT, f"{self.host}: a listener without TLS stands on loopback only")
        check_port(self.port)

    def __str__(self) -> str:
        return socket_address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Plant:
    """A TLS listener for the machines of the plant; what is not TLS is refused there.

    :param host: the address of the plant interface; no other interface is listened on.
    :param certificate: PEM of key, certificate and local CA in one file.
    :raises RefusedError: ``bad_input``: every address at once, or not a port.
    """

    host: str
    port: int
    certificate: Path

    def __post_init__(self) -> None:
        if parse_address(self.host).is_unspecified:
            raise RefusedError(Reason.BAD_INPUT, f"{self.host}: the plant interface has an address of its own")
        check_port(self.port)

    def __str__(self) -> str:
        return socket_address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The passwords of the two users every broker has; ``repr`` does not show them.

    :param owner: of the user that owns the broker's content: ``agent`` in nats-facts, ``control`` in nats-control.
    :param system: of the user ``sys``.
    """

    owner: str = field(repr=False)
    system: str = field(repr=False)

    def __post_init__(self) -> None:
        check_password(self.owner, "the owner")
        check_password(self.system, SYSTEM_USER)


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A numeric address. :raises RefusedError: ``bad_input``."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise RefusedError(Reason.BAD_INPUT, f"{host[:64]!r} is not a numeric address") from None


def check_port(port: int) -> None:
    """A TCP port, and not 0. :raises RefusedError: ``bad_input``."""
    if not 0 < port < 65536:
        raise RefusedError(Reason.BAD_INPUT, f"port {port}: 1 to 65535")


def check_password(password: str, user: str) -> None:
    """Long enough, and of characters that need no quoting anywhere. :raises RefusedError: ``bad_input``."""
    if not _PASSWORD.fullmatch(password):
        raise RefusedError(Reason.BAD_INPUT, f"the password of {user!r} must have 16 to 128 of [A-Za-z0-9_-]")


def socket_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def common(name: str, listen: Local | Plant, store: Path, limits: Limits, domain: str = "") -> dict[str, Value]:
    """The part that is the same in every broker of ours.

    What is not written is off: no monitoring port, no websocket, no MQTT, no cluster, no user without a credential.
    """
    jetstream: dict[str, Value] = {
        "store_dir": str(store),
        # An acknowledgement means written to disk; the server's default flushes every two minutes.
        "sync_interval": "always",
        "max_file_store": limits.max_file_store,
        "max_memory_store": limits.max_memory_store,
    }
    if domain:
        jetstream["domain"] = domain
    return {
        "server_name": name,
        "listen": str(listen),
        "max_payload": MAX_PAYLOAD,
        "max_connections": limits.max_connections,
        "max_subscriptions": 1024,  # of one connection
        "max_control_line": 4096,
        "write_deadline": WRITE_DEADLINE,
        "ping_interval": "30s",
        "ping_max": 2,
        "jetstream": jetstream,
        "system_account": SYSTEM_ACCOUNT,
    }


def user(name: str, password: str, permissions: Value | None = None) -> dict[str, Value]:
    """A user with a password; without ``permissions`` it may do everything in its account."""
    entry: dict[str, Value] = {"user": name, "password": password}
    if permissions is not None:
        entry["permissions"] = permissions
    return entry


def write_config(path: Path, text: str) -> None:
    """Put a configuration in place, whole and readable by its owner alone from the first byte: it holds passwords."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
