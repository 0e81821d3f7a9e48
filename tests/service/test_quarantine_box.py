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
from dataclasses import dataclass
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


@dataclass
class Story:
    """A box that spoke when it began, an application on it, and who listens at the far end of its cable."""

    scene: Scene
    sensor: Sensor
    producer: Producer
    tap: Tap
    enrolled: EnrolledBox
    older: Path

    @property
    def box(self) -> WatchedBox:
        """The box."""
        return self.scene.box

    @property
    def count(self) -> int:
        """How often it was locked, as the TPM counts, when it has been locked once."""
        return self.enrolled.birth_counter + 1

    def stands(self) -> dict[str, Any]:
        """What the watchdog says of the quarantine."""
        found: dict[str, Any] = self.box.document("watchdog")["quarantine"]
        return found

    def goes_on(self, facts: int) -> None:
        """The application gets so many more facts through."""
        count = len(self.producer.acknowledged)
        until(lambda: len(self.producer.acknowledged) > count + facts, "the producer")

    def ladder_is_done(self) -> None:
        """Every step."""

        def done() -> bool:
            steps = self.stands().get("steps", [])
            return len(steps) == len(ORDER) and all(each["done"] for each in steps)

        until(done, "the ladder", 60)

    def has_request(self) -> None:
        """The text of the QR code is made a moment after the last step."""
        until(lambda: bool(self.stands()["request"]), "the request as a text")

    def pid(self) -> int:
        """The watchdog's."""
        return int(self.box.document("watchdog").get("pid", 0))


def test_into_quarantine_and_out_of_it(scene: Scene) -> None:
    """In one go, for it is one story; each part says what must hold."""
    with ExitStack() as stack:
        story = begun(scene, stack)
        only_root_may_ask(story)
        locked(story)
        told_by_the_page(story)
        stays_when_the_watchdog_is_killed(story)
        stays_in_the_other_slot(story)
        released(story)
        speaks_after_its_restart(story)
        story.producer.end()
        until(lambda: set(story.producer.acknowledged) <= set(scene.at_hub()), "all facts at the hub")
    there = scene.at_hub()
    assert there == list(dict.fromkeys(there)), "none doubled"
    assert there == story.producer.acknowledged, "none lost, and in their order"


def begun(scene: Scene, stack: ExitStack) -> Story:
    """The box is enrolled, and speaks."""
    box, enrol = scene.box, scene.boot()
    sensor = Sensor(box.at.watchdog_run / "readings.sock")
    stack.callback(sensor.end)
    until(lambda: box.document("enrol").get("state") == "waiting", "the hub to know the box")
    scene.hub.approve(box.document("enrol")["fingerprint"], PLANT)
    assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
    run([*BSFG, "credential", "new", "press-4", "--role", "producer", "--local", str(box.at.local), "--zone", PLANT])
    box.local()
    token = (box.at.local / "issued/press-4.token").read_text().strip()
    until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
    producer = Producer(box, token)
    stack.enter_context(in_background(producer.run, producer.end))
    until(lambda: len(producer.acknowledged) > 20, "the producer")
    until(lambda: "fact-3" in scene.at_hub(), "facts at the hub")
    assert scene.state() == "open"
    tap = stack.enter_context(tapped(scene.world.hub))
    stack.enter_context(talking(scene.world.box))
    assert len(silence(tap, 1.0)) > 20, "a healthy box is heard"
    older = box.root.parent / "older"
    older.mkdir(mode=0o700)
    run(["cp", "-a", box.at.keeper_state, box.at.watchdog_state, older])
    enrolled = EnrolledBox.parse(box.at.pki.joinpath("enrolled-box.json").read_bytes())
    return Story(scene, sensor, producer, tap, enrolled, older)


def only_root_may_ask(story: Story) -> None:
    """Nobody but root and the console may ask for a quarantine."""
    box = story.box
    ask = "import sys, trio; from pathlib import Path; from appliance.watchdog.desk import ask; "
    ask += "trio.run(lambda: ask(Path(sys.argv[1]), op='enter', reason='x'))"
    for user in (User.AGENT, User.SENSOR, User.KEEPER):
        done = box.as_user(user, *box._python[:-1], "-c", ask, box.at.watchdog_run / "watchdog.sock")
        assert "caller_denied" in done.stderr


def locked(story: Story) -> None:
    """At the sensor's word: dark within half a second, the key locked, local work not hindered."""
    scene, box = story.scene, story.box
    began = time.time()
    story.sensor.say(Reading(ProbeName.MOUNTS, (Seen(Code.MOUNT_OVER_SYSTEM, "/usr, by the test"),)))
    until(lambda: scene.state() == "quarantined", "quarantine", 10)
    last = max((at for at, _ in story.tap.frames()), default=began)
    assert last - began < 0.5, "the last frame"
    assert silence(story.tap, DARK_FOR_S) == [], "neither facts nor ARP, ND, DHCP, nor what root sends by itself"
    story.ladder_is_done()
    stands = story.stands()
    assert (stands["code"], stands["detail"]) == ("mount_over_system", "/usr, by the test")
    assert stands["counter"] == story.count
    status = ask_keeper(box.at.keeper_socket, lambda keeper: keeper.status())
    assert (status.state, status.counter) == (KeeperState.LATCHED, story.count)
    assert not box.at.session("agent").exists()
    story.goes_on(20)


def told_by_the_page(story: Story) -> None:
    """Whoever reads nothing but the page knows what happened, since when, what works, and what to do."""
    story.has_request()
    stands = story.stands()
    shown = run([*BSFG, "box", "status", "--root", str(story.box.root)], env=python_environment())
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


def stays_when_the_watchdog_is_killed(story: Story) -> None:
    """Its next process goes on where the killed one was."""
    stands, watchdog = story.stands(), story.pid()
    os.kill(watchdog, signal.SIGKILL)
    assert silence(story.tap, 1.5) == []
    story.box.start_watchdog()
    until(lambda: story.pid() != watchdog and story.scene.state() == "quarantined", "the next watchdog")
    until(lambda: story.stands() == stands, "the same, with the same request")
    assert silence(story.tap, 1.0) == []


def stays_in_the_other_slot(story: Story) -> None:
    """Switched off, and on from the other slot, with keeper's and watchdog's files of before: the TPM knows of it."""
    scene, box = story.scene, story.box
    with story.producer.paused():
        scene.restart()
        for folder in (box.at.keeper_state, box.at.watchdog_state):
            shutil.rmtree(folder)
            run(["cp", "-a", story.older / folder.name, folder])
        scene.boot(OLDER)
        until(lambda: box.document("agent").get("ready") is True, "local work")
    story.ladder_is_done()
    assert story.stands()["code"] in {"key_latched", "latch_pcr_extended"}, "by the keeper's word or the TPM's"
    assert story.stands()["counter"] == story.count
    assert silence(story.tap, DARK_FOR_S) == []
    story.goes_on(5)
    story.has_request()


def released(story: Story) -> None:
    """One operator is none, two are enough; it is dark until it is started again."""
    scene, file = story.scene, story.box.root / "release.json"
    file.write_bytes(scene.signed(story.enrolled, 1).render())
    done = scene.quarantine("release", file)
    assert (done.returncode, "bad_release" in done.stderr) == (4, True)
    file.write_bytes(scene.signed(story.enrolled, 2).render())
    done = scene.quarantine("release", file)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("RELEASED")
    until(lambda: scene.state() == "released", "the release")
    assert silence(story.tap, 1.5) == [], "dark until it is started again"


def speaks_after_its_restart(story: Story) -> None:
    """Like any box; and in all the time before no fact was refused."""
    scene, box = story.scene, story.box
    assert story.producer.refused == []
    with story.producer.paused():
        scene.restart()
        enrol = scene.boot(OLDER)
        assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
        until(lambda: scene.state() == "open", "the lease")
        until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
    story.goes_on(5)
