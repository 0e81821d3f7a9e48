# SPDX-License-Identifier: Apache-2.0
"""Where everything of a box lies, and whose it is: the one place for paths and user numbers.

All paths are below a root, ``/`` on a box; tests run the same programs in a folder. The folders themselves are made by
``tmpfiles.d/bsfg.conf`` of the image, the users by ``sysusers.d/bsfg.conf``; a test compares both with this module.
``docs/box.md`` shows it as a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final


class User(IntEnum):
    """Users of the services, each with a group of the same number and name; fixed, for files outlive an image."""

    ROOT = 0
    FACTS = 951
    CONTROL = 952
    KEEPER = 953
    AGENT = 954
    WATCHDOG = 955
    CONSOLE = 956
    ENROL = 957
    NAMES = 958
    SENSOR = 959

    @property
    def login(self) -> str:
        """Its name on the box."""
        return "root" if self is User.ROOT else f"bsfg-{self.name.lower()}"


STATUS_GROUP: Final = 950
"""``bsfg``: may read status documents, and connect to the keeper's socket."""
GROUP_NAME: Final = "bsfg"

TPM_DEVICE: Final = "/dev/tpmrm0"
FACTS_PORT: Final = 4222
"""Of nats-facts, on loopback, where the site has no plant listener."""
CONTROL_PORT: Final = 4223
INTAKE_PORT: Final = 8080
"""AppendFact for applications on the box itself, on loopback."""


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """The files of a box. :param root: ``/`` on a box."""

    root: Path = Path("/")

    # -- the image ------------------------------------------------------------------------------------------------

    @property
    def image(self) -> Path:
        """What the image says of itself, and whom it obeys."""
        return self.root / "usr/lib/bsfg"

    @property
    def image_document(self) -> Path:
        """``version``, ``profile``, ``built_unix_s``."""
        return self.image / "image.json"

    @property
    def build_time(self) -> Path:
        """Unix seconds; boundary time is never before it."""
        return self.image / "build-time"

    @property
    def image_key(self) -> Path:
        """The public RSA key that signs PCR 11 for the running phases."""
        return self.image / "image-key.pem"

    @property
    def image_signatures(self) -> Path:
        """Signatures of that key, by systemd-stub."""
        return self.root / "run/systemd/tpm2-pcr-signature.json"

    @property
    def boot_log(self) -> Path:
        """The firmware's event log."""
        return self.root / "sys/kernel/security/tpm0/binary_bios_measurements"

    @property
    def runtime_log(self) -> Path:
        """The log systemd keeps of its own measurements."""
        return self.root / "run/log/systemd/tpm2-measure.log"

    # -- what the flasher left on the ESP ---------------------------------------------------------------------------

    @property
    def candidate(self) -> Path:
        """A site configuration to be taken; systemd mounts the ESP when it is looked for."""
        return self.root / "boot/bsfg/site.toml"

    @property
    def brought_voucher(self) -> Path:
        """A voucher of an enrolment operator."""
        return self.root / "boot/bsfg/voucher.json"

    @property
    def brought_measurements(self) -> Path:
        """Reference measurements of the builder's images (``measurements.json`` of a release)."""
        return self.root / "boot/bsfg/measurements.json"

    # -- what stays ------------------------------------------------------------------------------------------------

    @property
    def stick(self) -> Path:
        """Where a USB stick's file system is mounted, for as long as it is read."""
        return self.run / "stick"

    @property
    def carry(self) -> Path:
        """Where it is mounted, for as long as it is written: evidence of a quarantine, and nothing else."""
        return self.run / "carry"

    @property
    def state(self) -> Path:
        """The folder of all that stays; its file system is /var."""
        return self.root / "var/lib/bsfg"

    @property
    def site(self) -> Path:
        """The accepted site configuration and what belongs to it."""
        return self.state / "site"

    @property
    def site_document(self) -> Path:
        """The site configuration in use."""
        return self.site / "site.toml"

    @property
    def facts_store(self) -> Path:
        """JetStream's files of nats-facts."""
        return self.state / "facts"

    @property
    def control_store(self) -> Path:
        """JetStream's files of nats-control."""
        return self.state / "control"

    @property
    def agent_state(self) -> Path:
        """The ledger."""
        return self.state / "agent"

    @property
    def keeper_state(self) -> Path:
        """The keeper's own files."""
        return self.state / "keeper"

    @property
    def pki(self) -> Path:
        """Hub CA, registry of zones, deny list: all public."""
        return self.state / "pki"

    @property
    def local(self) -> Path:
        """The local keys; root's alone."""
        return self.state / "local"

    @property
    def local_root_sealed(self) -> Path:
        """The local keys' one secret, sealed by systemd to the TPM."""
        return self.local / "root.cred"

    @property
    def watchdog_state(self) -> Path:
        """What the watchdog remembers of a quarantine, and the evidence."""
        return self.state / "watchdog"

    # -- what is good for this boot ------------------------------------------------------------------------------------

    @property
    def run(self) -> Path:
        """The folder of all that a boot makes anew."""
        return self.root / "run/bsfg"

    @property
    def config(self) -> Path:
        """Generated configurations."""
        return self.run / "config"

    @property
    def applied_site(self) -> Path:
        """The signed site configuration that everything of this boot was made from."""
        return self.config / "site.toml"

    @property
    def keeper_config(self) -> Path:
        """The keeper's."""
        return self.config / "keeper.toml"

    @property
    def node_config(self) -> Path:
        """The agent's."""
        return self.config / "node.toml"

    @property
    def facts_config(self) -> Path:
        """That of nats-facts; it includes :attr:`trust`."""
        return self.config / "facts.conf"

    @property
    def control_config(self) -> Path:
        """That of nats-control."""
        return self.config / "control.conf"

    @property
    def operators(self) -> Path:
        """Public keys of the release operators."""
        return self.config / "operators.pem"

    @property
    def sets(self) -> Path:
        """Elements of the firewall's sets, for ``nft -f``."""
        return self.config / "sets.nft"

    @property
    def listeners(self) -> Path:
        """Which services listen where, a JSON list of user, address and port; the watchdog compares."""
        return self.config / "listeners.json"

    @property
    def chrony(self) -> Path:
        """Servers of wall-clock time."""
        return self.config / "chrony.conf"

    @property
    def site_authorities(self) -> Path:
        """CA certificates of the site's time servers."""
        return self.config / "site-authorities.pem"

    @property
    def control_secrets(self) -> Path:
        """Passwords of nats-control on loopback, of this boot; root's alone."""
        return self.config / "control-secrets.json"

    @property
    def names(self) -> Path:
        """The names that must be looked up, a JSON list; not there: none."""
        return self.config / "names.json"

    @property
    def names_run(self) -> Path:
        """The folder of whoever looks names up."""
        return self.run / "names"

    @property
    def names_found(self) -> Path:
        """What the names stand for, for whoever fills the firewall's sets."""
        return self.names_run / "found.json"

    @property
    def names_script(self) -> Path:
        """What was last put into the firewall's sets for those names; the watchdog compares."""
        return self.watchdog_run / "names-sets.nft"

    @property
    def watchdog_socket(self) -> Path:
        """Where the watchdog is asked."""
        return self.watchdog_run / "watchdog.sock"

    @property
    def outgoing(self) -> Path:
        """Where the watchdog lays out the evidence that is to be carried away."""
        return self.watchdog_run / "outgoing"

    @property
    def watchdog_run(self) -> Path:
        """The folder of the watchdog's sockets, and of what it keeps for this boot."""
        return self.run / "watchdog"

    @property
    def hosts_file(self) -> Path:
        """What ``/etc/hosts`` leads to, by :attr:`hosts`."""
        return self.names_run / "hosts"

    @property
    def hosts(self) -> Path:
        """A link to :attr:`hosts_file`; ``/etc/hosts`` is a link to it."""
        return self.run / "hosts"

    @property
    def resolv(self) -> Path:
        """``/etc/resolv.conf`` is a link to it."""
        return self.run / "resolv.conf"

    @property
    def network(self) -> Path:
        """Where networkd finds its files of this boot."""
        return self.root / "run/systemd/network"

    @property
    def facts_run(self) -> Path:
        """What the local keys hand to nats-facts: ``trust.conf``, ``server.pem``."""
        return self.run / "facts"

    @property
    def trust(self) -> Path:
        """Whom nats-facts lets in."""
        return self.facts_run / "trust.conf"

    @property
    def agent_run(self) -> Path:
        """What the local keys hand to the agent: ``agent.creds``, ``sys.creds``, ``tokens.json``, certificates."""
        return self.run / "agent"

    @property
    def enrol_run(self) -> Path:
        """What enrolment takes along."""
        return self.run / "enrol"

    @property
    def voucher(self) -> Path:
        """The voucher, if one was brought."""
        return self.enrol_run / "voucher.json"

    @property
    def kept_voucher(self) -> Path:
        """The last voucher that came by a stick."""
        return self.site / "voucher.json"

    @property
    def keeper_run(self) -> Path:
        """The folder of the keeper's sockets."""
        return self.run / "keeper"

    @property
    def keeper_boot(self) -> Path:
        """What the keeper itself keeps for this boot."""
        return self.keeper_run / "boot"

    @property
    def keeper_socket(self) -> Path:
        """Where the keeper is asked."""
        return self.keeper_run / "keeper.sock"

    @property
    def readings_socket(self) -> Path:
        """Where the sensor tells the watchdog what it sees."""
        return self.watchdog_run / "readings.sock"

    @property
    def sensor_run(self) -> Path:
        """What the sensor keeps for this boot."""
        return self.run / "sensor"

    @property
    def sessions(self) -> Path:
        """Session keys and certificates: ``agent.pem``, ``control.pem``."""
        return self.run / "session"

    def session(self, name: str) -> Path:
        """The session of ``agent`` or ``control``."""
        return self.sessions / f"{name}.pem"

    @property
    def status(self) -> Path:
        """Status documents, one for each service."""
        return self.run / "status"

    def status_document(self, name: str) -> Path:
        """The status document of a service."""
        return self.status / f"{name}.json"
