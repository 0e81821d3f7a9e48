# SPDX-License-Identifier: Apache-2.0
"""A hub for boxes of their own on one machine: the enterprise zone of a development environment, without its plant.

Its TPM is software, its operators and their keys are files in its folder, and what the boxes dial is the *simulated*
link, which can be cut. Everything else is a hub: boxes enrol, attest and exchange facts as with any other.

Usage::

    hub = HubAlone.make(Path("hub"))            # or HubAlone.load(...)
    hub.start()
    hub.trust_image_key(pem)                    # who signs the images of the boxes
    hub.trust_vendor(pem, "swtpm")              # who made their TPMs
    document = hub.site("plant-a", host="10.0.2.2")
    voucher = hub.voucher("plant-a", fingerprint)
    hub.stop()
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.environment import Environment, PortName
from appliance.dev.layout import ENTERPRISE, PLANT, KeysChoice, Layout
from appliance.dev.lifecycle import bring_down, start_detached
from appliance.dev.lock import holding_lock
from appliance.dev.offline import OPERATORS, Offline
from appliance.dev.provision import provision, write_document
from appliance.dev.supervisor import Progress
from appliance.hub.enrolment.folder import EnrolmentFolder
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.keys.enrolment.voucher import new_voucher
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.tpm.identity import load_rsa
from appliance.site.document import sign_site

VOUCHER_S: Final = 24 * 3600
INTERFACES: Final = """\
[interfaces.uplink]
driver = "virtio_net"

[interfaces.uplink.ipv4]
mode = "dhcp"
"""
"""The network of a virtual machine with one port."""


@dataclass(frozen=True, slots=True)
class HubAlone:
    """A hub in a folder. Blocking."""

    environment: Environment

    @classmethod
    def make(cls, folder: Path, plants: Sequence[ZoneId] = (PLANT,)) -> Self:
        """The hub in a folder; a new one serves these plants. Its keys and its office are there afterwards.

        :raises UnavailableError: ``bad_environment``: something else is there; ``child_failed``: a program is missing.
        :raises RefusedError: ``bad_input``: it serves other plants.
        """
        layout = Layout.at(folder)
        if not layout.document.exists():
            layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(layout.root.iterdir()):
                raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{folder} is not empty and has no env.json")
            zones = (ENTERPRISE,)
            write_document(Environment.generate(layout, KeysChoice.SWTPM, zones=zones, plants=tuple(plants)))
        hub = cls.load(folder)
        if hub.environment.plants != tuple(plants):
            raise RefusedError(Reason.BAD_INPUT, f"{folder} serves {', '.join(hub.environment.plants)}")
        with holding_lock(layout):
            provision(hub.environment)
            hub._let_it_move()
        return hub

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The hub in a folder. :raises UnavailableError: ``bad_environment``: there is none."""
        environment = Environment.load(folder)
        if environment.zones != (ENTERPRISE,):
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{folder} is a whole environment, and no hub alone")
        return cls(environment)

    def _let_it_move(self) -> None:
        """Where the registry is, seen from the office: a folder that was copied is a hub of its own."""
        path = self.office.document
        text = path.read_text("utf-8")
        registry = os.path.relpath(self.environment.layout.zone(ENTERPRISE).pki, self.office.path)
        moved = re.sub(r"(?m)^pki_dir = .*$", lambda _: f"pki_dir = {json.dumps(registry)}", text)
        if moved != text:
            write_atomically(path, moved.encode(), PUBLIC)

    def start(self, report: Callable[[Progress], None] = lambda _: None) -> None:
        """Start everything and return when it is ready; it outlives this process.

        :raises UnavailableError: ``already_running``, ``port_taken``, ``child_failed``.
        """
        start_detached(self.environment.layout, report)

    def stop(self, *, remove: bool = False) -> bool:
        """End everything; whether something ran. :param remove: remove the folder as well."""
        return bring_down(self.environment.layout, remove=remove)

    # -- whom it trusts ------------------------------------------------------------------------------------------------

    @property
    def office(self) -> EnrolmentFolder:
        """Its enrolment office."""
        return EnrolmentFolder(self.environment.layout.zone(ENTERPRISE).office)

    def trust_image_key(self, pem: bytes, name: str = "image") -> None:
        """Let in boxes whose images this key (RSA, public, PEM) signs. A hub that runs takes it up by itself.

        :raises RefusedError: ``bad_key``.
        """
        load_rsa(pem)
        write_atomically(self.office.image_keys / f"{name}-of-boxes.pem", pem, PUBLIC)

    def trust_vendor(self, pem: bytes, name: str) -> None:
        """Let in boxes whose TPMs have certificates of this CA (PEM, the root last), such as a simulated vendor's."""
        write_atomically(self.office.vendors / f"{name}.pem", pem, PUBLIC)

    # -- what a box gets -----------------------------------------------------------------------------------------------

    def site(
        self,
        zone: str,
        host: str,
        *,
        interfaces: str = INTERFACES,
        version: int = 1,
        extra: str = "",
        category_bytes: int | None = None,
    ) -> bytes:
        """A signed site configuration for a box that reaches this hub's link at ``host``.

        :param interfaces: TOML tables ``[interfaces.…]``. :param extra: further tables (``[plant]``, ``[time]``).
        :param category_bytes: of each category's log on the box's disk; as much as in this environment if left out.
        :raises BadSiteError: ``bad_site``: what was given makes no valid document.
        """
        ports, environment = self.environment.ports, self.environment
        hub_ca = PkiFolder(environment.layout.zone(ENTERPRISE).pki).hub_ca.read_text("ascii")
        offline = Offline(environment.layout.offline)
        operators = [Offline.public(offline.operator_file(name)).read_text("ascii") for name in OPERATORS]
        listed = ",\n".join(f'"""\n{text}"""' for text in operators)
        names = json.dumps(list(environment.categories))
        lines = [
            "# SPDX-License-Identifier: Apache-2.0",
            f'[site]\nformat = 1\nversion = {version}\nzone = "{zone}"\nname = "made by bsfg dev hub"\n',
            f'[hub]\nzone = "{ENTERPRISE}"\nhost = {json.dumps(host)}',
            f"rpc_port = {ports[PortName.LINK_RPC]}",
            f"trust_port = {ports[PortName.LINK_TRUST]}",
            f"leaf_port = {ports[PortName.LINK_LEAF]}\n",
            f'[trust]\nhub_ca = """\n{hub_ca}"""\noperators = [\n{listed}]\n',
            interfaces,
            extra,
        ]
        for category, policy in environment.categories.items():
            sizes = f"max_bytes = {category_bytes or policy.max_bytes}\nmax_age_s = {policy.max_age_s}\n"
            lines.append(f'[categories.{category}]\nwhen_full = "{policy.when_full}"\n{sizes}')
        lines.append(f"[peers.{ENTERPRISE}]\nfetch = {names}\nappend = {names}\n")
        return sign_site("\n".join(lines).encode(), offline.operator(OPERATORS[0]), "site.toml")

    def voucher(self, zone: str, fingerprint: str, life_s: int = VOUCHER_S) -> bytes:
        """A voucher of the first operator: lets the TPM with this fingerprint in for a zone, once."""
        operator = Offline(self.environment.layout.offline).operator(OPERATORS[0])
        expires_unix_ms = int((time.time() + life_s) * 1000)
        return new_voucher(operator, ZoneId(zone), fingerprint, expires_unix_ms).render()

    def approve(self, fingerprint: str, zone: str) -> None:
        """As ``bsfg hub approve``: let the TPM in, whether it has asked yet or not. :raises BsfgError."""
        EnrolmentOffice(self.office.path).approve(fingerprint, ZoneId(zone))

    def pending(self) -> list[tuple[str, str]]:
        """Fingerprint and zone of the boxes that wait for an operator."""
        return [(box.fingerprint, box.zone) for box in EnrolmentOffice(self.office.path).pending()]
