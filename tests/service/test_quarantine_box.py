# SPDX-License-Identifier: Apache-2.0
"""A whole box in quarantine and out again: nothing leaves it, local work goes on, and no fact is lost or doubled.

What is real: the box's programs as their users, its keeper on a software TPM, nats-facts, the agent, the firewall of
the image in the kernel, the watchdog with its probes of TPM and firewall, the hub, and a cable between two network
namespaces at whose far end every frame is counted.

What is simulated: the boots (their measurements, and that a restart is one: TPM and processes begin anew), and the
sensor: the test sends its readings, for a kernel that is tampered with would be this machine's.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.box.layout import User
from appliance.dev.processes import python_environment
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.keeper.client import ask_keeper
from appliance.keys.keeper.port import KeeperState
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.steps import ORDER
from appliance.watchdog.suspicions import Code, ProbeName
from tests.alone import until
from tests.egress import Tap, talking, tapped
from tests.processes import run
from tests.service.test_box_alone import BSFG, PLANT
from tests.slots import OLDER
from tests.watched_box import Producer, Scene, Sensor, WatchedBox, in_background, watched_scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: users and network namespaces")
DARK_FOR_S: Final = 2.0


@pytest.fixture
def scene(tmp_path: Path, find_tool: Callable[[str], str]) -> Iterator[Scene]:
    """Not booted yet."""
    for tool in ("nft", "ip", "setpriv", "systemd-sysusers", "systemd-tmpfiles"):
        find_tool(tool)
    with watched_scene(tmp_path) as made:
        yield made


def silence(tap: Tap, seconds: float) -> list[tuple[float, bytes]]:
    """What comes out of the box for a while."""
    tap.frames()
    time.sleep(seconds)
    found = tap.frames()
    assert tap.missed() == 0
    return found


def test_into_quarantine_and_out_of_it(scene: Scene) -> None:
    """In one go, for it is one story; each part says what must hold."""
    box = scene.box
    enrol = scene.boot()
    sensor = Sensor(box.at.watchdog_run / "readings.sock")
    with ExitStack() as stack:
        stack.callback(sensor.end)
        until(lambda: box.document("enrol").get("state") == "waiting", "the hub to know the box")
        scene.hub.approve(box.document("enrol")["fingerprint"], PLANT)
        assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
        run(
            [*BSFG, "credential", "new", "press-4", "--role", "producer", "--local", str(box.at.local), "--zone", PLANT]
        )
        box.local()
        token = (box.at.local / "issued/press-4.token").read_text().strip()
        until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
        enrolled = EnrolledBox.parse(box.at.pki.joinpath("enrolled-box.json").read_bytes())
        producer = Producer(box, token)
        stack.enter_context(in_background(producer.run, producer.end))
        until(lambda: len(producer.acknowledged) > 20, "the producer")
        until(lambda: "fact-3" in scene.at_hub(), "facts at the hub")
        assert scene.state() == "open"

        tap = stack.enter_context(tapped(scene.world.hub))
        stack.enter_context(talking(scene.world.box))
        assert len(silence(tap, 1.0)) > 20, "a healthy box is heard"

        # -- nobody but root and the console may ask for it
        ask = "import sys, trio; from pathlib import Path; from appliance.watchdog.desk import ask; "
        ask += "trio.run(lambda: ask(Path(sys.argv[1]), op='enter', reason='x'))"
        for user in (User.AGENT, User.SENSOR, User.KEEPER):
            done = box.as_user(user, *box._python[:-1], "-c", ask, box.at.watchdog_run / "watchdog.sock")
            assert "caller_denied" in done.stderr

        older = box.root.parent / "older"
        older.mkdir(mode=0o700)
        run(["cp", "-a", box.at.keeper_state, box.at.watchdog_state, older])

        # -- in
        began, before = time.time(), len(producer.acknowledged)
        sensor.say(Reading(ProbeName.MOUNTS, (Seen(Code.MOUNT_OVER_SYSTEM, "/usr, by the test"),)))
        until(lambda: scene.state() == "quarantined", "quarantine", 10)
        frames = tap.frames()
        last = max((at for at, _ in frames), default=began)
        assert last - began < 0.5, "the last frame"
        assert silence(tap, DARK_FOR_S) == [], "neither facts nor ARP, ND, DHCP, nor what root sends by itself"
        until(lambda: all(each["done"] for each in _steps(box)), "the ladder", 60)
        stands = box.document("watchdog")["quarantine"]
        assert (stands["code"], stands["detail"]) == ("mount_over_system", "/usr, by the test")
        assert stands["counter"] == enrolled.birth_counter + 1
        status = ask_keeper(box.at.keeper_socket, lambda keeper: keeper.status())
        assert (status.state, status.counter) == (KeeperState.LATCHED, enrolled.birth_counter + 1)
        assert not box.at.session("agent").exists()
        assert len(producer.acknowledged) > before + 20, "local work goes on"

        # -- whoever reads nothing but the page knows what happened, since when, what works, and what to do
        until(lambda: bool(box.document("watchdog")["quarantine"]["request"]), "the request as a text")
        stands = box.document("watchdog")["quarantine"]
        shown = run([*BSFG, "box", "status", "--root", str(box.root)], env=python_environment())
        assert shown.returncode == 5, shown.stderr
        for words in (
            "LOCKED: QUARANTINED, since ",
            "mount_over_system: something is mounted over a part of the system",
            "Works     local producers, local consumers",
            "Stopped   facts to hub, facts from hub",
            "dark: nothing leaves this box, until two operators have released it",
            "a USB stick with bsfg/take-evidence",
            "a stick with their bsfg/release.json",
            stands["evidence"],
        ):
            assert words in shown.stdout, shown.stdout
        assert stands["request"] in "".join(shown.stdout.replace("Request", "").split())

        # -- it stays
        watchdog = _pid_of(scene)
        os.kill(watchdog, signal.SIGKILL)
        assert silence(tap, 1.5) == []
        box.start_watchdog()
        until(lambda: _pid_of(scene) != watchdog and scene.state() == "quarantined", "the next watchdog")
        until(lambda: box.document("watchdog")["quarantine"] == stands, "the same, with the same request")
        assert silence(tap, 1.0) == []

        # -- switched off, and on from the other slot, with keeper's and watchdog's files of before: the TPM knows of it
        with producer.paused():
            scene.restart()
            for folder in (box.at.keeper_state, box.at.watchdog_state):
                shutil.rmtree(folder)
                run(["cp", "-a", older / folder.name, folder])
            scene.boot(OLDER)
            until(lambda: box.document("agent").get("ready") is True, "local work")
        count = len(producer.acknowledged)
        until(lambda: all(each["done"] for each in _steps(box)), "the ladder again", 60)
        stands = box.document("watchdog")["quarantine"]
        assert (stands["code"], stands["counter"]) == ("key_latched", enrolled.birth_counter + 1)
        assert silence(tap, DARK_FOR_S) == []
        assert len(producer.acknowledged) > count + 5, "local work goes on"
        until(lambda: bool(box.document("watchdog")["quarantine"]["request"]), "the request as a text")

        # -- out: one operator is none
        file = box.root / "release.json"
        file.write_bytes(scene.signed(enrolled, 1).render())
        done = scene.quarantine("release", file)
        assert (done.returncode, "bad_release" in done.stderr) == (4, True)
        file.write_bytes(scene.signed(enrolled, 2).render())
        done = scene.quarantine("release", file)
        assert done.returncode == 5, done.stderr
        assert done.stdout.startswith("RELEASED")
        until(lambda: scene.state() == "released", "the release")
        assert silence(tap, 1.5) == [], "dark until it is started again"

        # -- and after its restart
        assert producer.refused == []
        with producer.paused():
            scene.restart()
            enrol = scene.boot(OLDER)
            assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
            until(lambda: scene.state() == "open", "the lease")
            until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
        count = len(producer.acknowledged)
        until(lambda: len(producer.acknowledged) > count + 5, "the producer again")
        producer.end()
        until(lambda: set(producer.acknowledged) <= set(scene.at_hub()), "all facts at the hub")
    there = scene.at_hub()
    assert there == list(dict.fromkeys(there)), "none doubled"
    assert there == producer.acknowledged, "none lost, and in their order"


def _steps(box: WatchedBox) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = box.document("watchdog")["quarantine"].get("steps", [])
    return steps if len(steps) == len(ORDER) else [{"done": False}]


def _pid_of(scene: Scene) -> int:
    return int(scene.box.document("watchdog").get("pid", 0))
