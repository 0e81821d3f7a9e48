# SPDX-License-Identifier: Apache-2.0
"""A whole box that lives through a lot: what happens to it is done here, and what must not follow is looked for.

Beyond :mod:`tests.watched_box`: the sensor is the product's own process with all of its probes. Configuration and disk
are real to it (``/var`` is a file system of its own, which can be filled); what the kernel says of image, mounts,
firmware, processes and USB is **laid out** (:mod:`tests.laidout`), all well. Probes of the machine (audit, kernel,
listeners) are left out: they would look at the machine on which this runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import parse_producer
from appliance.box.layout import STATUS_GROUP, User
from appliance.dev.layout import ENTERPRISE
from appliance.keys.keeper.client import ask_keeper
from appliance.node.suspensions import ask_to_lift
from appliance.watchdog.quarantine.folder import CASE_FILE, JOURNAL_FILE
from tests.alone import until
from tests.bench.quarantine.lanes import weighted
from tests.egress import within
from tests.laidout import LaidOut
from tests.processes import run
from tests.produced import document as produced_document
from tests.service.test_box_alone import BSFG, PLANT
from tests.watched_box import Producer, Scene, WatchedBox, in_background, watched_scene

VAR: Final = "96m"
PATIENCE_S: Final = 240.0
_SETRESUID, _SETGROUPS = 117, 116  # x86-64; glibc's own would change every thread


class LivingBox(WatchedBox):
    """A box with its sensor, and a disk of its own."""

    limit_s = 7200.0

    def _image(self) -> None:
        self.tree = LaidOut(self.root)
        var = self.root / "var"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={VAR},mode=755", "var", var], check=True)
        self.units: dict[str, subprocess.Popen[bytes]] = {}
        super()._image()

    def start(self, unit: str, command: Any) -> subprocess.Popen[bytes]:
        """As its unit does, with its share of the processor."""
        self.units[unit] = super().start(unit, command)
        if unit in {"watchdog", "sensor"}:
            weighted(self.units[unit].pid)
        return self.units[unit]

    def identity(self, unit: str) -> dict[str, Any]:
        """The sensor's process becomes its user by itself."""
        return {} if unit == "sensor" else super().identity(unit)

    def sensor_user(self) -> int:
        """As on a box."""
        return int(User.SENSOR)

    def start_sensor(self) -> subprocess.Popen[bytes]:
        """bsfg-sensor.service: its user, with the one privilege."""
        privilege = ("--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace")
        user = str(int(User.SENSOR))
        become = ["setpriv", "--reuid", user, "--regid", user, "--groups", str(STATUS_GROUP), *privilege, "--"]
        return self.start("sensor", [*become, *self._python, "appliance.box.sensor", *self.options()])


@dataclass
class Life:
    """One box and what happened to it. :param notes: codes that were told, and how often they were seen in between."""

    scene: Scene
    producer: Producer
    tokens: Mapping[str, str]
    chance: random.Random
    notes: Counter[str] = field(default_factory=Counter)
    count: int = 0

    @property
    def box(self) -> LivingBox:
        """The box."""
        assert isinstance(self.scene.box, LivingBox)
        return self.scene.box

    def starters(self) -> dict[str, Callable[[], object]]:
        """Every unit that runs for good, and how it is started."""
        box = self.box
        return {
            "nats-facts": box.start_facts,
            "bsfg-agent": box.start_agent,
            "bsfg-keeper": box.start_keeper,
            "watchdog": box.start_watchdog,
            "sensor": box.start_sensor,
        }

    def quarantined(self) -> str:
        """Why the box is in quarantine; empty: it is not."""
        says = self.box.document("watchdog")
        for each in says.get("notes", []):
            self.notes[str(each.get("reason", each.get("code", "")))] += 1
        if any((self.box.at.watchdog_state / name).exists() for name in (CASE_FILE, JOURNAL_FILE)):
            return f"there is a case: {says.get('quarantine')}"
        state = says.get("state", "")
        return str(says) if state in {"quarantined", "released", "in_doubt"} else ""

    def is_open(self) -> bool:
        """Whether the watchdog that runs now lets it speak."""
        says = self.box.document("watchdog")
        return says.get("pid") == self.box.units["watchdog"].pid and says.get("state") == "open"

    def opens(self) -> None:
        """Wait until it speaks, or is in quarantine."""
        until(lambda: self.is_open() or bool(self.quarantined()), "the lease", PATIENCE_S)

    def flows(self, facts: int = 2) -> None:
        """Wait until so many more facts were acknowledged."""
        count = len(self.producer.acknowledged)
        until(lambda: len(self.producer.acknowledged) >= count + facts, "the producer", PATIENCE_S)

    # -- what happens --------------------------------------------------------------------------------------------------

    def power_cut(self) -> None:
        """All processes are killed at one moment, perhaps while they start; the TPM begins anew."""
        self.scene.restart()
        self._forget()
        self.scene.boot()
        self.box.start_sensor()
        if self.chance.random() < 0.3:
            time.sleep(self.chance.random() * 3)
            return
        self.opens()

    def _forget(self) -> None:
        for path in self.box.at.sensor_run.iterdir():
            path.unlink()

    def crash(self) -> None:
        """One service is killed, and started again as systemd does."""
        unit, start = self.chance.choice(sorted(self.starters().items()))
        with suppress(ProcessLookupError):
            os.killpg(self.box.units[unit].pid, signal.SIGKILL)
        self.box.units[unit].wait()
        time.sleep(self.chance.random())
        start()
        self.opens()

    def rotate(self) -> None:
        """The agent asks for a session of its own accord: a new key, certified by the boundary key in the TPM."""

        def asked() -> bool:
            try:
                as_user(User.AGENT, lambda: ask_keeper(self.box.at.keeper_socket, lambda it: it.session("agent")))
            except UnavailableError:  # the keeper starts, or does not know the time yet
                return False
            return True

        until(asked, "a session", PATIENCE_S)

    def credentials(self) -> None:
        """Local credentials are made anew, and handed out."""
        self.box.local()

    def carrier(self) -> None:
        """The cable is pulled at the far end, and put back."""
        hub = self.scene.world.hub
        hub.ip("link set wan down")
        time.sleep(self.chance.random())
        hub.ip("link set wan up")

    def hub_gone(self) -> None:
        """The hub's processes end, and come back."""
        hub, world = self.scene.hub, self.scene.world
        within(world.hub, hub.stop)
        time.sleep(self.chance.random() * 3)
        within(world.hub, hub.start)

    def port_out(self) -> None:
        """The uplink's port is taken out, and another one put in: udev has its chain loaded."""
        world = self.scene.world
        world.box.ip("link delete uplink0")
        time.sleep(self.chance.random())
        world.plug_uplink()
        world.box.nft(self.scene.rules[1])
        self.opens()

    def disk_full(self) -> None:
        """Not one byte is left on /var for a while; then there is room again. A broker that gave up is started anew."""
        fill = self.box.root / "var/fill"
        with suppress(OSError), fill.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        refused = len(self.producer.refused)
        with suppress(AssertionError):
            until(lambda: len(self.producer.refused) > refused, "a refusal", 10)
        time.sleep(self.chance.random() * 9)
        fill.unlink()
        count = len(self.producer.acknowledged)
        with suppress(AssertionError):
            until(lambda: len(self.producer.acknowledged) > count, "facts again", 10)
            return
        self.notes["(the broker was started again)"] += 1
        os.killpg(self.box.units["nats-facts"].pid, signal.SIGKILL)
        self.box.start_facts()
        self.opens()
        self.flows()

    def flood(self) -> None:
        """As many facts as go in, half of them for the second time."""
        self.count += 1
        for part in range(4):
            ids = [f"flood-{self.count}-{part // 2}-{number}" for number in range(100)]
            self._append("flooder", [(each, {"v": 1}) for each in ids])

    def conflict(self) -> None:
        """A producer sends another fact under an id that is taken; somebody has it served again."""
        ask_to_lift(self.box.at.agent_state, parse_producer("liar"))
        self.count += 1
        for value in (1, 2):
            self._append("liar", [(f"lie-{self.count}", {"v": value})])

    def site(self) -> None:
        """A new site configuration is taken while everything runs."""
        self.count += 1
        document = self.scene.hub.site(PLANT, self.scene.hub_address, version=1 + self.count)
        self.box.at.candidate.write_bytes(document)
        self.box.site()
        self.box.local()

    def names(self) -> None:
        """The hub's name stands for other addresses: what bsfg-names-sets does."""
        self.count += 1
        address = f"10.77.{self.chance.randrange(1, 250)}.{self.chance.randrange(1, 250)}"
        script = f"add element inet bsfg hub4 {{ {address} . 7422 }}\n"
        names = self.box.at.names_script
        first = names.read_text("utf-8").splitlines(keepends=True)[0]
        old = names.read_text("utf-8").splitlines(keepends=True)[1:]
        names.write_text(first + script)
        self.scene.world.box.nft("".join(line.replace("add", "delete", 1) for line in old) + script)

    def usb(self) -> None:
        """A stick or a keyboard comes, or goes."""
        name = f"sys/bus/usb/devices/1-{self.chance.randrange(8)}"
        if (self.box.root / name).exists():
            self.box.tree.take(name)
        else:
            self.box.tree.put(f"{name}/product", "a stick")
        time.sleep(0.1)

    def _append(self, producer: str, facts: list[tuple[str, dict[str, Any]]]) -> None:
        told = [{"category": "operational", **produced_document(each, to=ENTERPRISE, **v)} for each, v in facts]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.box.intake_port}/bsfg.v1.BoundaryService/AppendFact",
            json.dumps({"facts": told}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.tokens[producer]}"},
        )
        with suppress(OSError), urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            answer.read()

    def nothing_lost(self) -> None:
        """Whatever was acknowledged is at the hub, once. :raises AssertionError: it is not."""
        self.producer.end()
        until(lambda: set(self.producer.acknowledged) <= set(self.scene.at_hub()), "all facts at the hub", PATIENCE_S)
        there = self.scene.at_hub()
        assert len(there) == len(set(there)), "some are doubled"


def as_user(user: User, work: Callable[[], object]) -> None:
    """Do something in a thread that is somebody else, by the kernel's word."""

    def become_and_work() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        groups = (ctypes.c_uint32 * 1)(STATUS_GROUP)
        assert library.syscall(_SETGROUPS, 1, groups) == 0
        assert library.syscall(_SETRESUID, int(user), int(user), int(user)) == 0
        work()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(become_and_work).result()


def _last_words(logs: Path) -> None:
    """What the box's services said last, where a run ends before its time."""
    for path in sorted(logs.glob("*.log")):
        lines = path.read_text("utf-8", "replace").splitlines()[-12:]
        print(f"--- {path.name}", *lines, sep="\n", file=sys.stderr)


@contextmanager
def life(folder: Path, chance: random.Random) -> Iterator[Life]:
    """A box that was enrolled and speaks, with producers."""
    folder_of_box = Path(f"/tmp/bsfg-box-{os.getpid()}")  # noqa: S108 - as tests.watched_box has it
    var = folder_of_box / "root" / "var"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder_of_box, ignore_errors=True)
        stack.callback(lambda: subprocess.run(["umount", "--lazy", var], check=False, capture_output=True))
        scene = stack.enter_context(watched_scene(folder, LivingBox))
        stack.push(lambda kind, *_: _last_words(scene.box.logs) if kind is not None else None)
        box, enrol = scene.box, scene.boot()
        assert isinstance(box, LivingBox)
        box.start_sensor()
        until(lambda: box.document("enrol").get("state") == "waiting", "the hub to know the box", PATIENCE_S)
        scene.hub.approve(box.document("enrol")["fingerprint"], PLANT)
        assert enrol.wait(timeout=PATIENCE_S) == 0, box.log("bsfg-enrol")
        names = ("press-4", "flooder", "liar")
        for name in names:
            run([*BSFG, "credential", "new", name, "--role", "producer", "--local", box.at.local, "--zone", PLANT])
        box.local()
        tokens = {name: (box.at.local / f"issued/{name}.token").read_text().strip() for name in names}
        until(lambda: box.document("agent").get("mode") == "normal", "the crossing", PATIENCE_S)
        producer = Producer(box, tokens["press-4"])
        made = Life(scene, producer, tokens, chance)
        stack.enter_context(in_background(producer.run, producer.end))
        made.opens()
        made.flows()
        yield made
