# SPDX-License-Identifier: Apache-2.0
"""The configurations of a box's services, made from its site configuration. Pure.

What a box does not choose itself stands in :class:`BoxChoices`: where its TPM is, and ports on loopback. A box uses the
defaults; tests, which run a box's programs beside others on one machine, do not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import ZonePolicy
from appliance.box.layout import (
    CONTROL_PORT,
    FACTS_PORT,
    INTAKE_PORT,
    TPM_DEVICE,
    BoxLayout,
    User,
)
from appliance.box.storage import MIB, Storage
from appliance.brokers.config import Limits, Local, Plant, Secrets, socket_address
from appliance.brokers.control import ControlLeaf, HubAddress, ProxyAddress, TlsFiles
from appliance.brokers.facts import FactsBroker, IncludedTrust
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.config import SESSION_S
from appliance.keys.keeper.port import SESSION_NAMES
from appliance.keys.keeper.roles import Role
from appliance.site.config import HubEndpoints, SiteConfig

HOST: Final = "127.0.0.1"
CALLERS: Final = {
    User.ROOT: (Role.ADMINISTRATOR,),
    User.CONTROL: (Role.CONTROL,),
    User.AGENT: (Role.AGENT,),
    User.WATCHDOG: (Role.WATCHDOG,),
    User.ENROL: (Role.ADMINISTRATOR,),
}
"""Who is what to the keeper; whoever is not named may ask it nothing."""
GROUPS: Final = {"agent": User.AGENT, "control": User.CONTROL}
"""Who may read which session."""
_HEAD: Final = ("# SPDX-License-Identifier: Apache-2.0", "# Generated from the site configuration; overwritten.")
_CONTROL_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class BoxChoices:
    """What the site configuration does not say. The defaults are a box's.

    :param tcti: where the TPM is. :param simulated_boot: a software TPM whose PCRs nobody measured; development.
    :param names: whether ``/etc/hosts`` is ours, so that the hub can be dialled by its identity.
    :param one_user: all services run as this user, who then has all roles; development.
    :param hub_host: dialled instead of what the site says; development.
    """

    tcti: str = f"device:{TPM_DEVICE}"
    simulated_boot: bool = False
    facts_port: int = FACTS_PORT
    control_port: int = CONTROL_PORT
    intake_port: int = INTAKE_PORT
    names: bool = True
    one_user: int | None = None
    session_s: int = SESSION_S
    hub_host: str = ""


@dataclass(frozen=True, slots=True)
class BoxConfigs:
    """Makes each service's configuration.

    :param storage: what the disk has room for.
    """

    site: SiteConfig
    layout: BoxLayout
    storage: Storage
    choices: BoxChoices = field(default=BoxChoices())

    @property
    def zone(self) -> ZoneId:
        """The box's zone."""
        return self.site.zone

    def keeper(self) -> str:
        """The TOML document of the keeper."""
        at, choices = self.layout, self.choices
        roles = sorted({role for group in CALLERS.values() for role in group})
        callers = CALLERS if choices.one_user is None else {choices.one_user: roles}
        groups = {} if choices.one_user is not None else GROUPS
        return _document(
            "[keeper]",
            f'zone = "{self.zone}"',
            f'hub = "{self.site.hub}"',
            f"socket = {_text(at.keeper_socket)}",
            f"state_dir = {_text(at.keeper_state)}",
            f"run_dir = {_text(at.keeper_boot)}",
            f"session_dir = {_text(at.sessions)}",
            f"status_dir = {_text(at.status)}",
            f"pki_dir = {_text(at.pki)}",
            f"session_s = {choices.session_s}",
            "[tpm]",
            f"tcti = {_text(choices.tcti)}",
            *(["simulated_boot = true"] if choices.simulated_boot else []),
            "[trust]",
            f"operators = {_text(at.operators)}",
            f"image_key = {_text(at.image_key)}",
            f"image_signatures = {_text(at.image_signatures)}",
            f"built = {_text(at.build_time)}",
            f"boot_log = {_text(at.boot_log)}",
            f"runtime_log = {_text(at.runtime_log)}",
            "[callers]",
            *(f"{int(uid)} = {json.dumps(list(roles))}" for uid, roles in callers.items()),
            *(["[groups]", *(f"{name} = {int(groups[name])}" for name in SESSION_NAMES)] if groups else []),
        )

    def node(self) -> str:
        """The TOML document of the agent."""
        at, listener, endpoints = self.layout, self.site.listener, self.site.endpoints
        policy = self.storage.fitted(self.site.policy)
        host = HOST if listener is None else str(listener.address)
        lines = [
            "[node]",
            f'zone = "{self.zone}"',
            f"state_dir = {_text(at.agent_state)}",
            f"status_dir = {_text(at.status)}",
            "[keys]",
            'kind = "keeper"',
            f"pki_dir = {_text(at.pki)}",
            f"socket = {_text(at.keeper_socket)}",
            f"session = {_text(at.session('agent'))}",
            "[broker]",
            f"host = {_text(host)}",
            f"port = {self.choices.facts_port if listener is None else listener.nats}",
            f"credentials = {_text(at.agent_run)}",
            *([] if listener is None else [f"authority = {_text(at.agent_run / 'ca.pem')}"]),
            "[intake]",
            f"host = {_text(HOST)}",
            f"port = {self.choices.intake_port}",
            f"tokens = {_text(at.agent_run / 'tokens.json')}",
        ]
        if listener is not None:
            lines += [
                "[plant]",
                f"host = {_text(listener.address)}",
                f"port = {listener.https}",
                f"certificate = {_text(at.agent_run / 'server.pem')}",
            ]
        return _document(*lines, *_categories(policy), *_peers(policy), *self._uplink(endpoints))

    def _uplink(self, endpoints: HubEndpoints | None) -> list[str]:
        lines = ["[uplink]", f'zone = "{self.site.hub}"']
        if endpoints is None:
            return lines
        host = _text(self.hub_host(endpoints))
        return [
            *lines,
            *(f"host = {host}", f"port = {endpoints.rpc}"),
            *("[trust]", f"host = {host}", f"port = {endpoints.trust}"),
            *self._proxy(),
        ]

    def _proxy(self) -> list[str]:
        proxy = self.site.proxy
        return [] if proxy is None else ["[proxy]", f"host = {_text(proxy.host)}", f"port = {proxy.port}"]

    def hub_host(self, endpoints: HubEndpoints) -> str:
        """What is dialled: the hub's identity, for which ``/etc/hosts`` has its addresses; else what the site says.

        A proxy is asked for what the site says, for it knows no identities.
        """
        if self.choices.hub_host:
            return self.choices.hub_host
        if self.site.proxy is not None:
            return endpoints.host
        if self.choices.names:
            return self.site.hub_identity
        return str(endpoints.addresses[0]) if endpoints.addresses else endpoints.host

    def facts(self) -> str:
        """The configuration of nats-facts; it includes ``trust.conf``, which the local keys make."""
        at, listener = self.layout, self.site.listener
        listen = (
            Local(HOST, self.choices.facts_port)
            if listener is None
            else Plant(str(listener.address), listener.nats, at.facts_run / "server.pem")
        )
        trust = IncludedTrust(PurePosixPath("..") / at.facts_run.name / at.trust.name)
        return FactsBroker(self.zone, listen, at.facts_store, Limits(self.storage.facts), trust).render()

    def control(self, secrets: Secrets) -> str | None:
        """The configuration of nats-control's leaf; ``None``: the box has no uplink."""
        endpoints = self.site.endpoints
        if endpoints is None:
            return None
        at, proxy = self.layout, self.site.proxy
        # nats-server expects the certificate to have the name that it dials, unless that is an address
        host = self.hub_host(endpoints) if proxy is None else str(endpoints.addresses[0])
        return ControlLeaf(
            self.zone,
            Local(HOST, self.choices.control_port),
            at.control_store,
            secrets,
            Limits(self.storage.control, max_memory_store=16 * MIB, max_connections=_CONTROL_CONNECTIONS),
            TlsFiles(at.session("control"), PkiFolder(at.pki).hub_ca),
            HubAddress(self.site.hub, host, endpoints.leaf),
            None if proxy is None else ProxyAddress(proxy.host, proxy.port),
        ).render()

    def listeners(self) -> list[tuple[int, str, int]]:
        """Who listens where (user, address, port): nothing else may. The watchdog compares."""
        choices, listener = self.choices, self.site.listener
        plant = None if listener is None else str(listener.address)
        found = [
            (User.FACTS, HOST, choices.facts_port) if listener is None else (User.FACTS, str(plant), listener.nats),
            (User.AGENT, HOST, choices.intake_port),
            *([] if listener is None else [(User.AGENT, str(plant), listener.https)]),
            *([] if self.site.endpoints is None else [(User.CONTROL, HOST, choices.control_port)]),
        ]
        one = choices.one_user
        return [(int(user) if one is None else one, host, port) for user, host, port in found]

    def addresses(self) -> list[str]:
        """Where local applications find the box, for people."""
        listener = self.site.listener
        if listener is None:
            return [socket_address(HOST, self.choices.facts_port), socket_address(HOST, self.choices.intake_port)]
        return [socket_address(str(listener.address), port) for port in (listener.nats, listener.https)]


def _categories(policy: ZonePolicy) -> list[str]:
    lines = []
    for name, category in policy.categories.items():
        lines += [
            f"[categories.{name}]",
            f'when_full = "{category.when_full}"',
            f"max_bytes = {category.max_bytes}",
            f"max_age_s = {category.max_age_s}",
        ]
    return lines


def _peers(policy: ZonePolicy) -> list[str]:
    lines = []
    for zone, peer in policy.peers.items():
        lines += [f"[peers.{zone}]", f"fetch = {_words(peer.fetch)}", f"append = {_words(peer.append)}"]
    return lines


def _words(names: frozenset[Category]) -> str:
    return json.dumps(sorted(names))


def _text(value: object) -> str:
    """A string in TOML: a JSON string is one."""
    return json.dumps(str(value))


def _document(*lines: str) -> str:
    return "\n".join((*_HEAD, *lines)) + "\n"
