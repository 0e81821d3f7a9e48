# SPDX-License-Identifier: Apache-2.0
"""The configuration of one BSFG node: one TOML document, parsed strictly into frozen values.

Agent and hub read the same document; ``[uplink]`` makes it an agent (it dials out), ``[listen]`` makes it a hub (it
serves peers). Relative paths are relative to the document. Example::

    [node]
    zone = "plant-a"
    state_dir = "state"            # the ledger
    status_dir = "run/status"

    [keys]
    kind = "keeper"                # the keeper holds the boundary key, in a TPM
    pki_dir = "pki"                # what is public: hub-ca.pem, zones/<zone>.pem, denied.json
    socket = "run/keeper.sock"
    session = "run/session/agent.pem"  # the session that the keeper writes; none of it is needed for local work

    # [keys]                       # or: keys are files; for development alone
    # kind = "software"
    # pki_dir = "pki"              # with boundary.pem and session.pem

    [broker]                       # nats-facts of this zone, on loopback
    host = "127.0.0.1"
    port = 4222
    credentials = "local"          # folder with agent.creds and sys.creds
    # authority = "local/ca.pem"   # when it listens with TLS: the CA of its certificate

    [intake]                       # AppendFact for local producers, on loopback
    host = "127.0.0.1"
    port = 8080
    tokens = "local/tokens.json"   # {"<sha256 of token, hex>": {"producer": "cli", "categories": ["audit"]}}

    # conflicts = "refuse"         # a producer with two facts under one id goes on; development alone. Else "suspend"

    # [plant]                      # by choice: the same over HTTPS for the machines of the plant
    # host = "192.0.2.5"           # the address of the plant interface
    # port = 8443
    # certificate = "local/server.pem"

    [categories.operational]
    when_full = "reject"           # or "drop-oldest"
    max_bytes = 1073741824
    max_age_s = 0

    [peers.enterprise]             # what this peer may fetch here, and append here
    fetch = ["operational"]
    append = ["operational"]

    [uplink]                       # agents only: the hub to dial
    zone = "enterprise"            # alone: there is no way to it (air-gapped), and nothing is dialled
    host = "127.0.0.1"
    port = 8443

    # [proxy]                      # agents only, by choice: the HTTP proxy that connects to [uplink] and [trust]
    # host = "192.0.2.30"
    # port = 3128

    [listen]                       # hubs only: where peers dial in
    host = "127.0.0.1"
    port = 8443

    [trust]                        # by choice. Agents: where the hub gives time and takes quotes; hubs: listen there
    host = "127.0.0.1"
    port = 8444
    enrolment = "enrolment"        # hubs only: the folder of the enrolment office
    attestation = "required"       # hubs only; or "observe": facts of a box that does not attest cross all the same

    [control]                      # hubs only, by choice: the nats-control whose leaf connections are guarded
    host = "127.0.0.1"
    port = 4223
    secrets = "control-secrets.json"  # {"sys": "..."}
    authorities = "control/authorities.pem"  # written here; the ca_file of its leaf listener
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, parse_category, parse_zone
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, WhenFull, ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.boundary.sections import Section
from appliance.keys.files import parse_toml


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How to reach the zone's nats-facts.

    :param credentials: folder with the credentials files of the users ``agent`` and ``sys``.
    :param authority: the CA of its TLS certificate; ``None``: it listens without TLS, on loopback.
    """

    endpoint: Endpoint
    credentials: Path
    authority: Path | None = None


class Conflicts(StrEnum):
    """What becomes of a producer that sends two facts under one id; the second is refused either way."""

    SUSPEND = "suspend"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class IntakeConfig:
    """AppendFact for local producers over HTTP; ``tokens`` maps SHA-256 of bearer tokens to producers."""

    endpoint: Endpoint
    tokens: Path
    conflicts: Conflicts = Conflicts.SUSPEND


@dataclass(frozen=True, slots=True)
class PlantConfig:
    """AppendFact over HTTPS on the plant interface; ``certificate`` is a PEM file of key, certificate and local CA."""

    endpoint: Endpoint
    certificate: Path


@dataclass(frozen=True, slots=True)
class Uplink:
    """The hub an agent dials. :param endpoint: ``None``: there is no way to it, and the zone works on its own."""

    zone: ZoneId
    endpoint: Endpoint | None


class Attestation(StrEnum):
    """What becomes of a box that does not attest, or not as expected."""

    REQUIRED = "required"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class OfficeConfig:
    """What a hub's trust service stands on: the enrolment office's folder, and what attestation is for."""

    folder: Path
    attestation: Attestation


class KeysKind(StrEnum):
    """Who holds the boundary key. There is no default: software keys must be asked for."""

    SOFTWARE = "software"
    KEEPER = "keeper"


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """Where the node's keys are.

    :param pki_dir: hub CA, registry and deny list; with software keys also the private files.
    :param socket: the keeper's, ``None`` with software keys. :param session: the session file.
    """

    kind: KeysKind
    pki_dir: Path
    socket: Path | None
    session: Path


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The hub's nats-control; ``secrets`` is a JSON file with the password of ``sys``.

    :param authorities: the file with the device CAs that its leaf listener accepts.
    """

    endpoint: Endpoint
    secrets: Path
    authorities: Path


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything one node is told. Exactly one of ``uplink`` and ``listen`` is set.

    :param trust: an agent dials it, a hub listens there; ``None``: no enrolment, time and attestation by network.
    :param office: what the hub's trust service stands on; ``None`` on agents.
    :param proxy: the HTTP proxy through which an agent dials; ``None``: it dials directly.
    """

    policy: ZonePolicy
    state_dir: Path
    status_dir: Path
    keys: KeysConfig
    broker: BrokerConfig
    intake: IntakeConfig
    uplink: Uplink | None
    listen: Endpoint | None
    trust: Endpoint | None = None
    office: OfficeConfig | None = None
    control: ControlConfig | None = None
    plant: PlantConfig | None = None
    proxy: Endpoint | None = None

    @property
    def zone(self) -> ZoneId:
        """The zone this node stands in."""
        return self.policy.zone

    @classmethod
    def load(cls, path: Path) -> NodeConfig:
        """Read and parse. :raises RefusedError: ``bad_input`` with file, section and field."""
        try:
            return parse_toml(path, lambda root: _parse(root, path.parent))
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.strerror}") from error


def _conflicts(section: Section) -> Conflicts:
    try:
        return Conflicts(section.take("conflicts", str, Conflicts.SUSPEND.value))
    except ValueError as error:
        raise section.refuse(f"conflicts is one of {', '.join(Conflicts)}") from error


def _parse(root: Section, base: Path) -> NodeConfig:
    node = root.need("node")
    zone = node.zone()
    state_dir, status_dir = (base / node.take(field, str) for field in ("state_dir", "status_dir"))
    node.end()
    broker = root.need("broker")
    credentials, authority = base / broker.take("credentials", str), broker.take("authority", str, "")
    broker_config = BrokerConfig(_endpoint(broker), credentials, base / authority if authority else None)
    broker.end()
    intake = root.need("intake")
    intake_config = IntakeConfig(_endpoint(intake), base / intake.take("tokens", str), _conflicts(intake))
    intake.end()
    categories = root.need("categories")
    policy = ZonePolicy(
        zone,
        {parse_category(name): category_policy(categories.need(name)) for name in categories.fields()},
        peer_policies(root.section("peers")),
    )
    trust, listen = root.section("trust"), _only_endpoint(root.section("listen"))
    config = NodeConfig(
        policy,
        state_dir,
        status_dir,
        _keys(root.need("keys"), base),
        broker_config,
        intake_config,
        _uplink(root.section("uplink")),
        listen,
        None if trust is None else _endpoint(trust),
        None if trust is None or listen is None else _office(trust, base),
        _control(root.section("control"), base),
        _plant(root.section("plant"), base),
        _only_endpoint(root.section("proxy")),
    )
    if trust is not None:
        trust.end()
    root.end()
    _check(config)
    return config


def _keys(section: Section, base: Path) -> KeysConfig:
    text = section.take("kind", str)
    try:
        kind = KeysKind(text)
    except ValueError as error:
        raise section.refuse(f"kind {text!r}: {', '.join(KeysKind)}") from error
    pki_dir = base / section.take("pki_dir", str)
    if kind is KeysKind.SOFTWARE:
        keys = KeysConfig(kind, pki_dir, None, pki_dir / "session.pem")
    else:
        keys = KeysConfig(kind, pki_dir, base / section.take("socket", str), base / section.take("session", str))
    section.end()
    return keys


def _uplink(section: Section | None) -> Uplink | None:
    if section is None:
        return None
    reachable = {"host", "port"} & set(section.fields())
    uplink = Uplink(section.zone(), _endpoint(section) if reachable else None)
    section.end()
    return uplink


def _only_endpoint(section: Section | None) -> Endpoint | None:
    if section is None:
        return None
    endpoint = _endpoint(section)
    section.end()
    return endpoint


def _office(section: Section, base: Path) -> OfficeConfig:
    text = section.take("attestation", str)
    try:
        attestation = Attestation(text)
    except ValueError as error:
        raise section.refuse(f"attestation {text!r}: {', '.join(Attestation)}") from error
    return OfficeConfig(base / section.take("enrolment", str), attestation)


def _plant(section: Section | None, base: Path) -> PlantConfig | None:
    if section is None:
        return None
    plant = PlantConfig(_endpoint(section), base / section.take("certificate", str))
    section.end()
    return plant


def _control(section: Section | None, base: Path) -> ControlConfig | None:
    if section is None:
        return None
    files = base / section.take("secrets", str), base / section.take("authorities", str)
    control = ControlConfig(_endpoint(section), *files)
    section.end()
    return control


def _check(config: NodeConfig) -> None:
    """What no section can know by itself."""
    policy = config.policy
    if (config.uplink is None) == (config.listen is None):
        raise RefusedError(Reason.BAD_INPUT, "exactly one of [uplink] (an agent) and [listen] (a hub) is needed")
    if config.proxy is not None and (config.uplink is None or config.uplink.endpoint is None):
        raise RefusedError(Reason.BAD_INPUT, "[proxy] is for agents that dial: [uplink] has no host and port")
    if config.control is not None and config.listen is None:
        raise RefusedError(Reason.BAD_INPUT, "[control] is for hubs: only they guard leaf connections")
    if config.uplink is not None and config.uplink.zone not in policy.peers:
        raise RefusedError(Reason.BAD_INPUT, f"[uplink] zone {config.uplink.zone!r} needs a section [peers.…]")
    for zone, peer in policy.peers.items():
        if zone == policy.zone:
            raise RefusedError(Reason.BAD_INPUT, f"[peers.{zone}] is this zone itself")
        if unknown := sorted(peer.fetch - policy.categories.keys()):
            raise RefusedError(Reason.BAD_INPUT, f"[peers.{zone}] fetch: {unknown[0]!r} needs a section [categories.…]")


def _endpoint(section: Section) -> Endpoint:
    port = section.take("port", int)
    if not 0 < port < 65536:
        raise section.refuse(f"port {port}: 1 to 65535")
    return Endpoint(section.take("host", str), port)


def category_policy(section: Section) -> CategoryPolicy:
    """What one category does when it is full. :raises RefusedError: ``bad_input``: a field is not valid."""
    text = section.take("when_full", str, WhenFull.REJECT.value)
    try:
        when_full = WhenFull(text)
    except ValueError as error:
        raise section.refuse(f"when_full {text!r}: {', '.join(WhenFull)}") from error
    policy = CategoryPolicy(when_full, section.take("max_bytes", int, 1024**3), section.take("max_age_s", int, 0))
    section.end()
    if policy.max_bytes < 1024**2:
        raise section.refuse("max_bytes is at least 1048576")
    if policy.max_age_s < 0:
        raise section.refuse("max_age_s is at least 0")
    return policy


def peer_policies(section: Section | None) -> dict[ZoneId, PeerPolicy]:
    """What each peer may do here. :raises RefusedError: ``bad_input`` or ``bad_name``: a field is not valid."""
    if section is None:
        return {}
    peers = {}
    for name in section.fields():
        peer = section.need(name)
        peers[parse_zone(name)] = PeerPolicy(peer.words("fetch"), peer.words("append"))
        peer.end()
    return peers
