# SPDX-License-Identifier: Apache-2.0
"""A box's services as its real users, in folders that systemd made from the image's own lists: who reaches what.

Needs root, to become somebody else. Everything of :mod:`tests.alone` is simulated here too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from appliance.boundary.names import ZoneId
from appliance.box.layout import STATUS_GROUP, User
from appliance.dev.hub_alone import HubAlone
from appliance.keys.keeper.port import KeeperState
from tests.alone import BoxAlone, switched_on, until
from tests.conftest import IN_CI
from tests.processes import SYSTEM_PYTHON, interpreter

EXTRA: Final = Path(__file__).resolve().parent.parent.parent / "image/mkosi.extra"
PLANT: Final = ZoneId("plant-a")
_ASK: Final = """
import sys, trio
from pathlib import Path
from appliance.keys.keeper.client import KeeperClient
from appliance.boundary.errors import BsfgError
async def ask():
    keeper = KeeperClient(Path(sys.argv[1]))
    for call in (
        keeper.status,
        lambda: keeper.latch(bytes(32)),
        keeper.describe,
        lambda: keeper.session("agent"),
        lambda: keeper.session("control"),
        lambda: keeper.sign(b"bsfg.v1 receipt\\n"),
        lambda: keeper.quote(bytes(16)),
    ):
        try:
            await call()
            print("allowed")
        except BsfgError as error:
            print("denied" if error.reason == "caller_denied" else "allowed")
trio.run(ask)
"""
_READ: Final = """
import sys
for name in sys.argv[1:]:
    try:
        open(name, "rb").read(1)
        print("yes")
    except OSError:
        print("no")
"""
CALLS: Final = ("status", "latch", "describe", "session agent", "session control", "sign receipt", "quote")


class BoxWithUsers(BoxAlone):
    """A box whose services are its users, by the image's own units, users and folders."""

    def _image(self) -> None:
        super()._image()
        for kind in ("sysusers.d", "tmpfiles.d"):
            shutil.copytree(EXTRA / "usr/lib" / kind, self.root / "usr/lib" / kind)
        (self.root / "etc").mkdir()
        for program, *options in (("systemd-sysusers",), ("systemd-tmpfiles", "--create")):
            subprocess.run([program, f"--root={self.root}", *options], check=True, capture_output=True, timeout=30)

    def whose(self) -> list[str]:
        """Each its own."""
        return []

    def confined(self) -> list[str]:
        """Root as the sandboxes of bsfg-site and bsfg-local leave it: it may give files away, and nothing else."""
        powers = ("--bounding-set", "-all,+chown", "--inh-caps", "-all", "--ambient-caps", "-all")
        return ["setpriv", *powers, "--groups", str(STATUS_GROUP), "--"]

    def identity(self, unit: str) -> dict[str, Any]:
        """As systemd would: the unit's user, with the groups that it is in and those that the unit adds."""
        lines = (EXTRA / f"usr/lib/systemd/system/{unit}.service").read_text("utf-8").splitlines()
        named = dict(line.split("=", 1) for line in lines if "=" in line)
        user = next(each for each in User if each.login == named["User"])
        more = [each for each in User if each.login in named.get("SupplementaryGroups", "").split()]
        return {"user": int(user), "group": int(user), "extra_groups": [STATUS_GROUP, *map(int, more)]}

    def as_user(self, user: User, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run something as a service's user, with no group but its own and the common one."""
        return subprocess.run(
            [str(word) for word in command],
            user=int(user),
            group=int(user),
            extra_groups=[STATUS_GROUP],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self._environment,
            cwd="/",
        )

    def asks(self, user: User) -> Mapping[str, str]:
        """What the keeper answers a user, call by call."""
        command = [*self._python[:-1], "-c", _ASK, str(self.at.keeper_socket)]
        done = self.as_user(user, *command)
        assert done.returncode == 0, done.stderr
        return dict(zip(CALLS, done.stdout.split(), strict=True))


@contextmanager
def box_with_users() -> Iterator[BoxWithUsers]:
    """One whose folders others than root can reach."""
    missing = [name for name in ("systemd-sysusers", "systemd-tmpfiles", "setpriv") if shutil.which(name) is None]
    if os.geteuid() or missing:
        (pytest.fail if IN_CI else pytest.skip)(f"needs root and {missing or 'nothing else'}")
    with tempfile.TemporaryDirectory(prefix="bsfg-box-") as name:
        Path(name).chmod(0o755)
        python, environment = interpreter()
        with switched_on(BoxWithUsers(Path(name), python, environment)) as box:
            yield box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoxWithUsers]:
    """A box that was enrolled and works."""
    hub = HubAlone.make(tmp_path_factory.mktemp("hub") / "hub", [PLANT])
    with box_with_users() as made:
        hub.trust_image_key(made.image_public)
        hub.trust_vendor(made.vendor_cas, "box")
        hub.start()
        try:
            made.at.candidate.write_bytes(hub.site(PLANT, "10.0.2.2"))
            made.site()
            made.site()  # again: what it has given away it can replace
            made.local()
            made.start_facts()
            made.start_agent()
            made.start_keeper()
            enrol = made.start_enrol()
            until(lambda: made.document("enrol").get("state") == "waiting", "the hub to know the box")
            hub.approve(made.document("enrol")["fingerprint"], PLANT)
            assert enrol.wait(timeout=60) == 0, made.log("bsfg-enrol")
            until(lambda: made.document("agent").get("mode") == "normal", "the crossing")
            made.start_control()
            yield made
        finally:
            made.stop()
            hub.stop(remove=True)


def test_everything_works_with_the_rights_that_units_have(box: BoxWithUsers) -> None:
    """Enrolment writes beside the keeper, the keeper gives sessions to their groups, everybody writes a document."""
    assert box.document("keeper")["state"] == KeeperState.READY
    assert box.document("agent")["problems"] == []
    for name, user in (("keeper", User.KEEPER), ("agent", User.AGENT), ("enrol", User.ENROL)):
        state = box.at.status_document(name).stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (int(user), STATUS_GROUP, 0o640)
    for name, user in (("agent", User.AGENT), ("control", User.CONTROL)):
        state = box.at.session(name).stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (int(User.KEEPER), int(user), 0o640)
    until(lambda: "Server is ready" in box.log("nats-control"), "nats-control")
    assert "permission denied" not in box.log("nats-control").lower()


def test_each_user_reads_what_is_its_own_and_nothing_else(box: BoxWithUsers) -> None:
    """Who can open what: a table, asked of the kernel for every user and every secret."""
    at = box.at
    readers = {
        at.session("agent"): {User.KEEPER, User.AGENT},
        at.session("control"): {User.KEEPER, User.CONTROL},
        at.keeper_config: set(User) - {User.ROOT},
        at.node_config: set(User) - {User.ROOT},
        at.facts_config: set(User) - {User.ROOT},
        at.control_config: {User.CONTROL},
        at.control_secrets: set(),
        at.agent_run / "agent.creds": {User.AGENT},
        at.agent_run / "tokens.json": {User.AGENT},
        at.trust: {User.FACTS},
        at.local / "applications.json": set(),
        at.agent_state / "ledger.db": {User.AGENT},
        at.keeper_state / "boundary.json": {User.KEEPER},
        at.status_document("agent"): set(User) - {User.ROOT},
        at.pki / "hub-ca.pem": set(User) - {User.ROOT},
        at.site_document: set(User) - {User.ROOT},
    }
    readers = {path: users for path, users in readers.items() if path.exists()}
    assert len(readers) >= 15
    found: dict[Path, set[User]] = {path: set() for path in readers}
    for user in set(User) - {User.ROOT}:
        done = box.as_user(user, SYSTEM_PYTHON, "-c", _READ, *readers)
        for path, answer in zip(readers, done.stdout.split(), strict=True):
            if answer == "yes":
                found[path].add(user)
    assert {str(path): sorted(users) for path, users in found.items()} == {
        str(path): sorted(users) for path, users in readers.items()
    }


def test_the_keeper_does_for_each_user_what_its_role_says(box: BoxWithUsers) -> None:
    """By the kernel's word of who asks. The latch is tried by those who may not alone: it would be closed."""
    expected = {
        User.FACTS: set(),
        User.CONSOLE: set(),
        User.NAMES: set(),
        User.CONTROL: {"status", "session control"},
        User.AGENT: {"status", "session agent", "sign receipt", "quote"},
        User.ENROL: {"status", "describe", "quote"},
    }
    for user, allowed in expected.items():
        answers = box.asks(user)
        assert {call for call, answer in answers.items() if answer == "allowed"} == allowed, user.login
