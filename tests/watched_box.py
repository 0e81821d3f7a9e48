# SPDX-License-Identifier: Apache-2.0
"""A whole box with its watchdog and its hub, each in a network of its own, for tests and benches. Needs root.

What is real: the box's programs as their users, its keeper on a software TPM, nats-facts, the agent, the firewall of
the image in the kernel, the watchdog with its probes of TPM and firewall, the hub, and a cable between two network
namespaces at whose far end every frame is counted.

What is simulated: the boot (its measurements, and that a restart is one: kernel, TPM and processes begin anew), and the
sensor: the test sends its readings, for a kernel that is tampered with would be this machine's.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from appliance.box.layout import STATUS_GROUP, User
from appliance.dev.hub_alone import HubAlone
from appliance.dev.layout import ENTERPRISE
from appliance.dev.offline import OPERATORS, Offline
from appliance.dev.processes import python_environment
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.keeper.client import ask_keeper
from appliance.keys.release import Release, add_signature, new_release
from appliance.keys.release_code import ReleaseCode
from appliance.keys.release_request import request_of
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.public import Digest
from appliance.keys.unixsocket import address_of
from appliance.watchdog.assembling import OF_THE_SENSOR
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import ProbeName
from tests.alone import switched_on
from tests.egress import within
from tests.firewalled import HUB4, RPC_PORT, World, numbered
from tests.processes import interpreter, run
from tests.produced import document as produced_document
from tests.service.test_box_alone import BSFG, PLANT
from tests.service.test_box_users import BoxWithUsers
from tests.slots import NEWER, Slot
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

_CLONE_NEWNET: Final = 0x40000000
OF_THIS_MACHINE: Final = (ProbeName.AUDIT, ProbeName.KERNEL, ProbeName.LISTENERS)
"""Probes of the watchdog that would look at the machine the test runs on, or find what the test itself does in the
box's network: a software TPM that listens, frames by a packet socket. They have tests of their own."""
PRODUCER_EVERY_S: Final = 0.05


@contextmanager
def standing_in(name: str) -> Iterator[None]:
    """Whatever this thread starts or connects is in that network namespace, until the end of the block."""
    library = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net", "rb") as home:
        try:
            with open(f"/run/netns/{name}", "rb") as there:
                assert library.setns(there.fileno(), _CLONE_NEWNET) == 0
            yield
        finally:
            assert library.setns(home.fileno(), _CLONE_NEWNET) == 0


class WatchedBox(BoxWithUsers):
    """A box with its watchdog, on an uplink of its own. Its boots are measured by the test, as those of an image."""

    def options(self, *, all_of_them: bool = True) -> list[str]:
        """It dials what its site configuration says."""
        words = [word for word in super().options(all_of_them=all_of_them) if word != "--simulated-boot"]
        if "--hub-host" in words:
            place = words.index("--hub-host")
            del words[place : place + 2]
        return words

    def measure(self, slot: Slot) -> None:
        """What firmware, loader and kernel do before the first of its programs."""
        with Device(self.tpm.tcti) as device:
            slot.measure(device)
        self.at.image_signatures.write_bytes(slot.signatures(self.image_key))

    @property
    def boot_id(self) -> Path:
        """The kernel's, which stays the same when a restart is only played."""
        return self.root / "boot-id"

    def start_watchdog(self) -> subprocess.Popen[bytes]:
        """bsfg-watchdog.service: its user, with the one privilege."""
        privilege = ("--inh-caps", "+net_admin", "--ambient-caps", "+net_admin")
        user = str(int(User.WATCHDOG))
        become = ["setpriv", "--reuid", user, "--regid", user, "--groups", str(STATUS_GROUP), *privilege, "--"]
        places = {
            "status": self.at.status,
            "keeper": self.at.keeper_socket,
            "state": self.at.watchdog_state,
            "run": self.at.watchdog_run,
            "node": self.at.node_config,
            "pki": self.at.pki,
            "root": self.root,
            "boot-id": self.boot_id,
            "sensor-user": str(self.sensor_user()),
        }
        options = [word for name, value in places.items() for word in (f"--{name}", str(value))]
        options += [word for name in OF_THIS_MACHINE for word in ("--without", str(name))]
        return self.start("watchdog", [*become, *self._python, "appliance.watchdog", *options])

    def sensor_user(self) -> int:
        """Whose process the sensor is: the test's."""
        return 0

    def identity(self, unit: str) -> dict[str, Any]:
        """The watchdog's process becomes its user by itself."""
        return {} if unit == "watchdog" else super().identity(unit)


class Sensor:
    """Sends what a sensor would say, each two seconds; and what the test wants it to have seen."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._ends = path, threading.Lock(), threading.Event()
        self._link: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.is_set():
            for name in sorted(OF_THE_SENSOR):
                self.say(Reading(name))
            self._ends.wait(2.0)

    def say(self, reading: Reading) -> None:
        """Say it now; if nobody listens, it is lost."""
        with self._lock, suppress(OSError):
            if self._link is None:
                link = socket.socket(socket.AF_UNIX)
                try:
                    with address_of(self._path) as address:
                        link.connect(address)
                except OSError:
                    link.close()
                    raise
                self._link = link
            try:
                self._link.sendall(reading.render())
            except OSError:
                self._link.close()
                self._link = None
                raise

    def end(self) -> None:
        """No more."""
        self._ends.set()
        self._thread.join()
        if self._link is not None:
            self._link.close()


@dataclass
class Producer:
    """An application on the box: a fact each moment, over HTTP, tried until it is acknowledged."""

    box: WatchedBox
    token: str
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _ends: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def end(self) -> None:
        """Append nothing more."""
        self._ends.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is on its way; for the moments in which the box is off."""
        with self._turn:
            yield

    def run(self) -> None:
        """Until told to end."""
        number = 0
        while not self._ends.wait(PRODUCER_EVERY_S):
            with self._turn:
                self._append(f"fact-{number}")
                number += 1

    def _append(self, message_id: str) -> None:
        fact = {"category": "operational", **produced_document(message_id, to=ENTERPRISE)}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.box.intake_port}/bsfg.v1.BoundaryService/AppendFact",
            json.dumps({"facts": [fact]}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20):  # noqa: S310 - loopback
                self.acknowledged.append(message_id)
        except urllib.error.HTTPError as error:
            self.refused.append(f"{message_id}: {error.code}")
        except OSError as error:
            self.refused.append(f"{message_id}: {error}")


@contextmanager
def in_background(work: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """A thread, which starts in this thread's network namespace."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end()
        thread.join()


@dataclass
class Scene:
    """The hub and its box, each in a network of its own."""

    world: World
    hub: HubAlone
    box: WatchedBox
    rules: list[str]

    hub_address = HUB4

    def load(self) -> None:
        """What bsfg-firewall and bsfg-firewall-sets do at a boot."""
        self.world.box.nft("flush ruleset")
        for text in (*self.rules, self.box.at.sets.read_text("utf-8")):
            self.world.box.nft(text)
        talking = f"add element inet bsfg hub4 {{ {HUB4} . {RPC_PORT} }}\n"  # for what only talks
        self.box.at.names_script.write_text(talking)
        self.world.box.nft(talking)

    def boot(self, slot: Slot = NEWER) -> subprocess.Popen[bytes]:
        """Start everything of a slot; the process of enrolment."""
        box = self.box
        box.measure(slot)
        box.boot_id.write_text(f"{uuid.uuid4()}\n")
        box.site()
        box.local()
        self.load()
        box.start_facts()
        box.start_agent()
        box.start_keeper()
        box.start_watchdog()
        return box.start_enrol()

    def restart(self) -> None:
        """Switch the box off and on."""
        self.box.stop()
        self.box.tpm.reset()
        for name in ("status", "watchdog", "session"):
            for path in (self.box.at.run / name).iterdir():
                path.unlink() if not path.is_dir() else shutil.rmtree(path)
        subprocess.run(
            ["systemd-tmpfiles", f"--root={self.box.root}", "--create"], check=True, capture_output=True, timeout=30
        )

    def state(self) -> str:
        """What the watchdog says."""
        return str(self.box.document("watchdog").get("state", ""))

    def at_hub(self) -> list[str]:
        """The ids of the box's facts that the hub has, in their order."""
        arguments = ["fact", "read", "--dir", str(self.hub.environment.layout.root), "--zone", ENTERPRISE]
        words = [*BSFG, *arguments, "--origin", PLANT, "--category", "operational", "--output", "jsonl"]
        done = within(self.world.hub, lambda: run(words, env=python_environment()))
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return [str(each["envelope"]["message_id"]) for each in found]

    def signed(self, box: EnrolledBox, signers: int) -> Release:
        """What the operators sign for the box as it is, over the evidence that it names: by the text of its QR code."""
        request = ReleaseCode.parse(self.box.document("watchdog")["quarantine"]["request"]).request(box)
        evidence = Digest(bytes.fromhex(self.box.document("watchdog")["quarantine"]["evidence"]))
        made = ask_keeper(self.box.at.keeper_socket, lambda keeper: request_of(keeper, evidence))
        assert replace(request, certificate=made.certificate) == made, "it says what the keeper's own request says"
        offline, release = Offline(self.hub.environment.layout.offline), new_release(box, request)
        for name in OPERATORS[:signers]:
            release = add_signature(box, request, release, offline.operator(name))
        return release

    def quarantine(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """``bsfg quarantine``, as root on the box."""
        socket_path = self.box.at.watchdog_run / "watchdog.sock"
        command = [*BSFG, "quarantine", str(words[0]), "--socket", str(socket_path), *map(str, words[1:])]
        return run(command, env=python_environment())


@contextmanager
def watched_scene(tmp_path: Path, kind: type[WatchedBox] = WatchedBox) -> Iterator[Scene]:
    """Not booted yet. :param kind: another box."""
    (tmp_path / "image").mkdir()
    hardening.render(tmp_path / "image")
    device = (tmp_path / "image" / DEVICE_RULES / "uplink0.nft").read_text("utf-8")
    rules = [numbered((tmp_path / "image" / FIREWALL).read_text("utf-8")), device]
    world = World(f"q{os.getpid()}")
    folder = Path(f"/tmp/bsfg-box-{os.getpid()}")  # noqa: S108 - others than root must reach it
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(world.remove)
        world.build()
        hub = within(world.hub, lambda: HubAlone.make(tmp_path / "hub", [PLANT]))
        folder.mkdir(mode=0o755)
        stack.enter_context(standing_in(world.box.name))
        python, environment = interpreter()
        box = kind(folder, python, environment)
        for path, text in ((FIREWALL, rules[0]), (f"{DEVICE_RULES}/uplink0.nft", device)):
            (box.root / path).parent.mkdir(parents=True, exist_ok=True)
            (box.root / path).write_text(text)
        hub.trust_image_key(box.image_public)
        hub.trust_vendor(box.vendor_cas, "box")
        within(world.hub, hub.start)
        stack.callback(lambda: within(world.hub, lambda: hub.stop(remove=True)))
        # the hub listens on loopback
        world.hub.setting("net.ipv4.conf.all.route_localnet", "1")
        ports = ", ".join(str(port) for port in hub.environment.ports.values())
        world.hub.nft(
            "table ip way { chain in { type nat hook prerouting priority -100; "
            f"ip daddr {HUB4} tcp dport {{ {ports} }} dnat to 127.0.0.1; }}; }}"
        )
        stack.enter_context(world.hub.doing("serve", [(HUB4, RPC_PORT)], []))
        box.at.candidate.write_bytes(hub.site(PLANT, HUB4))
        stack.enter_context(switched_on(box))
        yield Scene(world, hub, box, rules)
