# SPDX-License-Identifier: Apache-2.0
"""The configuration of one BSFG node: one TOML document, parsed strictly into frozen values.

Agent and hub read the same document; ``[uplink]`` makes it an agent (it dials out), ``[listen]`` makes it a hub (it
serves peers). Relative paths are relative to the document. Example::

    [node]
    zone = "plant-a"
    state_dir = "state"            # the ledger
    status_dir = "run/status"
    pki_dir = "pki"

    [broker]                       # nats-facts of this zone, on loopback
    host = "127.0.0.1"
    port = 4222
    secrets = "broker-secrets.json"  # {"agent": "...", "sys": "..."}: passwords of the two users

    [intake]                       # AppendFact for local producers, on loopback
    host = "127.0.0.1"
    port = 8080
    tokens = "producers.json"      # {"<sha256 of token, hex>": {"producer": "cli", "categories": ["audit"]}}

    [categories.operational]
    when_full = "reject"           # or "drop-oldest"
    max_bytes = 1073741824
    max_age_s = 0

    [peers.enterprise]             # what this peer may fetch here, and append here
    fetch = ["operational"]
    append = ["operational"]

    [uplink]                       # agents only: the hub to dial
    zone = "enterprise"
    host = "127.0.0.1"
    port = 8443

    [listen]                       # hubs only: where peers dial in
    host = "127.0.0.1"
    port = 8443
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import Category, ZoneId, parse_category, parse_zone
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, WhenFull, ZonePolicy
from appliance.boundary.reasons import Reason

T = TypeVar("T", str, int)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How to reach the zone's nats-facts; ``secrets`` is a JSON file with the passwords of ``agent`` and ``sys``."""

    endpoint: Endpoint
    secrets: Path


@dataclass(frozen=True, slots=True)
class IntakeConfig:
    """AppendFact for local producers over HTTP; ``tokens`` maps SHA-256 of bearer tokens to producers."""

    endpoint: Endpoint
    tokens: Path


@dataclass(frozen=True, slots=True)
class Uplink:
    """The hub an agent dials."""

    zone: ZoneId
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything one node is told. Exactly one of ``uplink`` and ``listen`` is set."""

    policy: ZonePolicy
    state_dir: Path
    status_dir: Path
    pki_dir: Path
    broker: BrokerConfig
    intake: IntakeConfig
    uplink: Uplink | None
    listen: Endpoint | None

    @property
    def zone(self) -> ZoneId:
        """The zone this node stands in."""
        return self.policy.zone

    @classmethod
    def load(cls, path: Path) -> NodeConfig:
        """Read and parse. :raises RefusedError: ``bad_input`` with file, section and field."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
        try:
            return _parse(_Section("", document), path.parent)
        except BsfgError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.detail}") from error


class _Section:
    """A table of the document that gives out each field once and refuses what nobody asked for."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._values = dict(values)

    def take(self, field: str, kind: type[T], default: T | None = None) -> T:
        value = self._values.pop(field, default)
        if value is None:
            raise self.refuse(f"needs {field}")
        if type(value) is not kind:
            raise self.refuse(f"{field} must be {kind.__name__}")
        return value

    def zone(self) -> ZoneId:
        try:
            return parse_zone(self.take("zone", str))
        except RefusedError as error:
            raise error if error.reason is Reason.BAD_INPUT else self.refuse(error.detail) from error

    def words(self, field: str) -> frozenset[Category]:
        value = self._values.pop(field, None)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.refuse(f"{field} must be a list of categories")
        try:
            return frozenset(parse_category(word) for word in value)
        except RefusedError as error:
            raise self.refuse(f"{field}: {error.detail}") from error

    def refuse(self, text: str) -> RefusedError:
        return RefusedError(Reason.BAD_INPUT, f"[{self._name}] {text}" if self._name else text)

    def section(self, field: str) -> _Section | None:
        value = self._values.pop(field, None)
        if value is None:
            return None
        name = f"{self._name}.{field}" if self._name else field
        if not isinstance(value, dict):
            raise RefusedError(Reason.BAD_INPUT, f"[{name}] must be a table")
        return _Section(name, value)

    def need(self, field: str) -> _Section:
        section = self.section(field)
        if section is None:
            raise self.refuse(f"[{field}] is missing")
        return section

    def fields(self) -> list[str]:
        return list(self._values)

    def end(self) -> None:
        if self._values:
            raise self.refuse(f"has an unknown field {next(iter(self._values))!r}")


def _parse(root: _Section, base: Path) -> NodeConfig:
    node = root.need("node")
    zone = node.zone()
    directories = [base / node.take(field, str) for field in ("state_dir", "status_dir", "pki_dir")]
    node.end()
    broker = root.need("broker")
    broker_config = BrokerConfig(_endpoint(broker), base / broker.take("secrets", str))
    broker.end()
    intake = root.need("intake")
    intake_config = IntakeConfig(_endpoint(intake), base / intake.take("tokens", str))
    intake.end()
    categories = root.need("categories")
    policy = ZonePolicy(
        zone,
        {parse_category(name): _category(categories.need(name)) for name in categories.fields()},
        _peers(root.section("peers")),
    )
    uplink, listen = root.section("uplink"), root.section("listen")
    if (uplink is None) == (listen is None):
        raise RefusedError(Reason.BAD_INPUT, "exactly one of [uplink] (an agent) and [listen] (a hub) is needed")
    config = NodeConfig(
        policy,
        directories[0],
        directories[1],
        directories[2],
        broker_config,
        intake_config,
        None if uplink is None else Uplink(uplink.zone(), _endpoint(uplink)),
        None if listen is None else _endpoint(listen),
    )
    for section in (uplink, listen, root):
        if section is not None:
            section.end()
    _check(config)
    return config


def _check(config: NodeConfig) -> None:
    """What no section can know by itself."""
    policy = config.policy
    if config.uplink is not None and config.uplink.zone not in policy.peers:
        raise RefusedError(Reason.BAD_INPUT, f"[uplink] zone {config.uplink.zone!r} needs a section [peers.…]")
    for zone, peer in policy.peers.items():
        if zone == policy.zone:
            raise RefusedError(Reason.BAD_INPUT, f"[peers.{zone}] is this zone itself")
        if unknown := sorted(peer.fetch - policy.categories.keys()):
            raise RefusedError(Reason.BAD_INPUT, f"[peers.{zone}] fetch: {unknown[0]!r} needs a section [categories.…]")


def _endpoint(section: _Section) -> Endpoint:
    port = section.take("port", int)
    if not 0 < port < 65536:
        raise section.refuse(f"port {port}: 1 to 65535")
    return Endpoint(section.take("host", str), port)


def _category(section: _Section) -> CategoryPolicy:
    text = section.take("when_full", str, WhenFull.REJECT.value)
    try:
        when_full = WhenFull(text)
    except ValueError as error:
        raise section.refuse(f"when_full {text!r}: {', '.join(WhenFull)}") from error
    policy = CategoryPolicy(when_full, section.take("max_bytes", int, 1024**3), section.take("max_age_s", int, 0))
    section.end()
    if policy.max_bytes < 1024**2 or policy.max_age_s < 0:
        raise section.refuse("max_bytes is at least 1048576, max_age_s at least 0")
    return policy


def _peers(section: _Section | None) -> dict[ZoneId, PeerPolicy]:
    if section is None:
        return {}
    peers = {}
    for name in section.fields():
        peer = section.need(name)
        peers[parse_zone(name)] = PeerPolicy(peer.words("fetch"), peer.words("append"))
        peer.end()
    return peers
