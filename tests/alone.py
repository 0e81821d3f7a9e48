# SPDX-License-Identifier: Apache-2.0
"""A box without its image: the programs of a box in a folder, on a software TPM, as its units would start them.

**Simulated**: the TPM (swtpm, by a vendor of the test's own), the boot whose measurements stand in it, and systemd: the
test starts what a unit would. What is dialled is the hub's address on this machine instead of the one in the site
configuration, for no site configuration may name loopback.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.box.layout import BoxLayout
from appliance.brokers.binary import find_broker
from appliance.dev.processes import python_environment
from appliance.keys.tpm.manufacture import make_software_tpm
from appliance.keys.tpm.simulated_boot import simulated_signatures
from tests.processes import run, running
from tests.tpm import SoftwareTpm

PATIENCE_S: Final = 90.0
B = TypeVar("B", bound="BoxAlone")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def until(happened: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
    """Wait for something. :raises AssertionError: it does not happen."""
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.1)


class BoxAlone:
    """One box. :param folder: where it lies. :param python: the interpreter, and what it needs in its environment."""

    limit_s: float = 300.0
    """How long a unit's process may run."""

    def __init__(self, folder: Path, python: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.root = folder / "root"
        self._python = [*(python or [sys.executable]), "-P", "-B", "-m"]
        self._environment = dict(environment) if environment is not None else python_environment()
        self.at = BoxLayout(self.root)
        self.logs = folder / "log"
        self.facts_port, self.control_port, self.intake_port = free_ports(3)
        self.image_key = rsa.generate_private_key(65537, 2048)
        made = make_software_tpm(folder / "tpm")
        self.vendor_cas = made.vendor_cas
        self.tpm = SoftwareTpm(made.state)
        self._services = ExitStack()
        self.facts: subprocess.Popen[bytes]
        self._image()

    def _image(self) -> None:
        """What an image and its loader would have left."""
        self.logs.mkdir(parents=True)
        for path in (self.at.image_key, self.at.image_signatures, self.at.candidate):
            path.parent.mkdir(parents=True)
        self.at.image_key.write_bytes(self.image_public)
        self.at.image_signatures.write_bytes(simulated_signatures(self.image_key))
        self.at.build_time.write_text("1780000000\n")

    @property
    def image_public(self) -> bytes:
        """The public key that signs its image, PEM."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.image_key.public_key().public_bytes(serialization.Encoding.PEM, form)

    def options(self, *, all_of_them: bool = True) -> list[str]:
        """What its programs are told otherwise than on a box."""
        if not all_of_them:
            return ["--root", str(self.root)]
        return [
            *("--root", str(self.root), "--tcti", self.tpm.tcti, "--simulated-boot"),
            *("--facts-port", str(self.facts_port), "--control-port", str(self.control_port)),
            *("--intake-port", str(self.intake_port), "--hub-host", "127.0.0.1"),
            *self.whose(),
        ]

    def whose(self) -> list[str]:
        """All services run as the test's own user, who then has all roles."""
        return ["--one-user", str(os.getuid())]

    def confined(self) -> list[str]:
        """What a oneshot unit's program is started by."""
        return []

    def identity(self, unit: str) -> dict[str, Any]:
        """As whom a unit's process is started."""
        return {}

    def once(self, module: str, *options: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of a oneshot unit."""
        command = [*self.confined(), *self._python, module, *options]
        done = run(command, env=self._environment, umask=0o027)
        assert done.returncode == expect, f"{module}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def site(self) -> None:
        """bsfg-site.service, without what only root may do to network and firewall."""
        self.once("appliance.box.site", *self.options())

    def local(self) -> None:
        """bsfg-local.service."""
        self.once("appliance.box.local", *self.options(all_of_them=False), "--unsealed")

    def start(self, unit: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a unit's process; it ends with :meth:`stop`."""
        log = self._services.enter_context((self.logs / f"{unit}.log").open("ab"))
        options = {"env": self._environment, "cwd": self.root, "umask": 0o027, **self.identity(unit)}
        return self._services.enter_context(running(command, limit_s=self.limit_s, stdout=log, stderr=log, **options))

    def start_facts(self) -> subprocess.Popen[bytes]:
        """nats-facts.service."""
        self.facts = self.start("nats-facts", [str(find_broker().path), "-c", str(self.at.facts_config)])
        return self.facts

    def start_control(self) -> subprocess.Popen[bytes]:
        """nats-control.service."""
        return self.start("nats-control", [str(find_broker().path), "-c", str(self.at.control_config)])

    def start_agent(self) -> subprocess.Popen[bytes]:
        """bsfg-agent.service."""
        return self.start("bsfg-agent", [*self._python, "appliance.agent", "--config", str(self.at.node_config)])

    def start_keeper(self) -> subprocess.Popen[bytes]:
        """bsfg-keeper.service."""
        return self.start(
            "bsfg-keeper", [*self._python, "appliance.keys.keeper", "--config", str(self.at.keeper_config)]
        )

    def start_enrol(self) -> subprocess.Popen[bytes]:
        """bsfg-enrol.service."""
        return self.start("bsfg-enrol", [*self._python, "appliance.box.enrol", *self.options()])

    def stop(self) -> None:
        """A power cut."""
        self._services.close()

    def document(self, name: str) -> dict[str, Any]:
        """A status document; empty: there is none."""
        try:
            values = json.loads(self.at.status_document(name).read_bytes())
        except (OSError, ValueError):
            return {}
        assert isinstance(values, dict)
        return values

    def log(self, unit: str) -> str:
        """What a unit's process said."""
        return (self.logs / f"{unit}.log").read_text("utf-8", "replace")


@contextmanager
def box_alone(folder: Path) -> Iterator[BoxAlone]:
    """A box whose TPM runs, and nothing else yet."""
    with switched_on(BoxAlone(folder)) as box:
        yield box


@contextmanager
def switched_on(box: B) -> Iterator[B]:
    """A box whose TPM runs."""
    box.tpm.start()
    try:
        yield box
    finally:
        box.stop()
        box.tpm.stop()
