# SPDX-License-Identifier: Apache-2.0
"""Units, users and folders of the image: systemd accepts them, programs agree with them, none waits in a circle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from appliance.box import stick
from appliance.box.layout import GROUP_NAME, STATUS_GROUP, TPM_DEVICE, BoxLayout, User
from appliance.watchdog.assembling import READINGS, Choices
from appliance.watchdog.sensor import listening
from tools.image.hardening.data import Area, controls

EXTRA = Path(__file__).resolve().parent.parent.parent / "image/mkosi.extra"
UNITS = EXTRA / "usr/lib/systemd/system"
STOCK = Path("/usr/lib/systemd/system")
ELSEWHERE = {
    "bsfg-firewall.service",
    "bsfg-firewall-sets.service",
    "chrony.service",
    "tpm2.target",
    "systemd-tmpfiles-setup.service",
}
"""Named here, and made by somebody else."""
PYTHON = "/usr/lib/bsfg/venv/bin/python -I -B -m "
LONG_RUNNING = {"nats-facts", "nats-control", "bsfg-agent", "bsfg-keeper", "bsfg-sensor", "bsfg-watchdog"}


def own_units() -> list[Path]:
    """Unit files of this part; the console's and drop-ins have tests of their own."""
    found = [
        path
        for path in sorted(UNITS.iterdir())
        if path.is_file() and path.name.startswith(("bsfg", "nats", "run-bsfg"))
    ]
    return [path for path in found if "console" not in path.name]


def entries(path: Path) -> dict[str, list[str]]:
    """All values of each setting of a unit."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def words(path: Path, *names: str) -> list[str]:
    """All words of some settings."""
    unit = entries(path)
    return [word for name in names for value in unit.get(name, []) for word in value.split()]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with the units, and programs that are files and nothing more."""
    target = tmp_path / "root/usr/lib/systemd/system"
    shutil.copytree(STOCK, target, symlinks=True, ignore_dangling_symlinks=True)
    for path in own_units():
        shutil.copy(path, target)
    for name in ELSEWHERE:
        if not (target / name).exists():
            kind = "[Service]\nExecStart=/usr/bin/true\n" if name.endswith(".service") else ""
            (target / name).write_text(f"[Unit]\nDescription={name}\n{kind}")
    root = tmp_path / "root"
    for path in own_units():
        for value in words(path, "ExecStart", "ExecStartPost", "ExecReload"):
            if (value.startswith("/usr/") and "/bin/" in value) or value.startswith("/usr/sbin/"):
                program = root / value.removeprefix("/")
                program.parent.mkdir(parents=True, exist_ok=True)
                program.write_text("#!\n")
                program.chmod(0o755)
    (root / "usr/bin/true").write_text("#!\n")
    (root / "usr/bin/true").chmod(0o755)
    return root


def test_systemd_accepts_every_unit(image: Path, find_tool: Callable[[str], str]) -> None:
    """And one with a mistake is not accepted in the same way."""
    tool = find_tool("systemd-analyze")

    def verify(*units: str) -> str:
        command = [tool, f"--root={image}", "--man=no", "--recursive-errors=no", "verify", *units]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines = [line for line in done.stderr.splitlines() if any(f"{name.split('.')[0]}" in line for name in units)]
        return "\n".join(lines)

    names = [path.name for path in own_units()]
    assert verify(*names) == ""
    broken = image / "usr/lib/systemd/system/bsfg-broken.service"
    broken.write_text("[Service]\nType=nonsense\nExecStart=/no/such/program\n")
    assert "bsfg-broken" in verify("bsfg-broken.service")


def test_nothing_waits_in_a_circle() -> None:
    """Local work comes before keys, keys before the watchdog, and that before whatever goes out."""
    order = dict(start_order())
    sorted_units = list(TopologicalSorter(order).static_order())
    place = {name: number for number, name in enumerate(sorted_units)}
    chain = (
        *("bsfg-firewall.service", "bsfg-site.service", "bsfg-local.service", "nats-facts.service"),
        *("bsfg-agent.service", "bsfg-keeper.service", "bsfg-watchdog.service", "bsfg-enrol.service"),
    )
    assert [place[name] for name in chain] == sorted(place[name] for name in chain)
    assert place["bsfg-watchdog.service"] < place["nats-control.service"]
    assert place["bsfg-site.service"] < place["systemd-networkd.service"]


def start_order() -> Iterator[tuple[str, set[str]]]:
    """For each unit, what it waits for."""
    waits: dict[str, set[str]] = {}
    for path in own_units():
        waits.setdefault(path.name, set()).update(words(path, "After"))
        for later in words(path, "Before"):
            waits.setdefault(later, set()).add(path.name)
    yield from waits.items()


def test_a_quarantined_box_is_dark_before_anything_is_sent() -> None:
    """The wall is on the uplink's device before networkd asks for an address by a packet socket (seen without)."""
    dark = UNITS / "bsfg-dark.service"
    assert {"bsfg-firewall.service", "bsfg-ports.service"} <= set(words(dark, "After"))
    assert {"network-pre.target", "systemd-networkd.service"} <= set(words(dark, "Before"))


def test_local_work_waits_for_no_key_no_network_and_no_time() -> None:
    """The agent's unit names none of them, in whatever way."""
    for name in ("nats-facts.service", "bsfg-agent.service"):
        named = set(words(UNITS / name, "After", "Requires", "Wants", "BindsTo", "Requisite"))
        local = {"bsfg-site.service", "bsfg-local.service", "nats-facts.service"}
        assert named <= local


def test_everything_of_ours_is_started() -> None:
    """By the target, a path, a device; and the target names nothing that is not there."""
    wanted = set(words(UNITS / "bsfg.target", "Wants"))
    installer = {"bsfg-installer.service"}
    assert installer < set(words(UNITS / "bsfg-installer.target", "Requires"))
    by_path = {f"{path.stem}.service" for path in own_units() if path.suffix in {".path", ".socket"}}
    sockets = {path.name for path in own_units() if path.suffix == ".socket"}
    devices = "".join(control.value for control in controls(Area.SYSTEM) if "udev" in control.extra["file"])
    assert sockets == {f"{name}@.socket" for name in re.findall(r"(bsfg-\w+)@\$kernel\.socket", devices)}
    there = {path.name for path in own_units()} | ELSEWHERE
    assert wanted <= there
    services = {path.name for path in own_units() if path.suffix == ".service"}
    by_device = set(re.findall(r'SYSTEMD_WANTS}\+="(bsfg-\w+\.service)"', devices))
    assert by_device == {"bsfg-stick.service"}
    by_stick = {stick.CARRY}
    assert services <= wanted | by_path | by_device | by_stick | installer
    assert {path.name for path in own_units() if path.suffix == ".path"} <= wanted
    assert "enable bsfg.target" in (EXTRA / "usr/lib/systemd/system-preset/20-bsfg.preset").read_text()


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_what_must_not_end_is_started_again_for_ever(name: str) -> None:
    """However often it ends."""
    unit = entries(UNITS / f"{name}.service")
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert 1 <= int(unit["RestartSec"][0]) <= 5


@pytest.mark.parametrize("name", ["bsfg-agent", "bsfg-keeper", "bsfg-sensor", "bsfg-watchdog"])
def test_a_main_loop_that_hangs_is_noticed(name: str) -> None:
    """These tell systemd that they live."""
    unit = entries(UNITS / f"{name}.service")
    assert unit["Type"] == ["notify"]
    assert 5 <= int(unit["WatchdogSec"][0]) <= 60


def test_our_programs_run_isolated_and_without_a_home() -> None:
    """``-I``: no environment, no user site, nothing from the current folder. Every module is there."""
    for path in own_units():
        unit = entries(path)
        for command in unit.get("ExecStart", []):
            if "python" not in command:
                continue
            assert command.startswith(PYTHON), path.name
            module = command.removeprefix(PYTHON).split()[0].replace(".", "/")
            source = EXTRA.parent.parent / module
            assert source.with_suffix(".py").is_file() or (source / "__main__.py").is_file(), command
            assert unit["UnsetEnvironment"] == ["HOME"], path.name
            assert unit["UMask"] == ["0027"], path.name


def test_users_are_those_of_the_layout() -> None:
    """With the same numbers, each in the group that reads status documents."""
    text = (EXTRA / "usr/lib/sysusers.d/bsfg.conf").read_text()
    users = {name: int(number) for name, number in re.findall(r"^u (\S+) (\d+) ", text, re.MULTILINE)}
    assert users == {user.login: int(user) for user in User if user is not User.ROOT}
    assert re.findall(r"^g (\S+) (\d+)$", text, re.MULTILINE) == [(GROUP_NAME, str(STATUS_GROUP))]
    assert set(re.findall(rf"^m (\S+) {GROUP_NAME}$", text, re.MULTILINE)) == set(users)
    rule = (EXTRA / "usr/lib/udev/rules.d/90-bsfg-tpm.rules").read_text()
    assert f'GROUP="{int(User.KEEPER)}"' in rule
    rule = (EXTRA / "usr/lib/udev/rules.d/91-bsfg-root.rules").read_text()
    assert f'GROUP="{int(User.SENSOR)}", MODE="0440"' in rule
    assert TPM_DEVICE == "/dev/tpmrm0"


def folders() -> Mapping[str, tuple[str, str, str]]:
    """What tmpfiles makes: by path, mode, user and group."""
    text = (EXTRA / "usr/lib/tmpfiles.d/bsfg.conf").read_text()
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {line[1]: (line[2], line[3], line[4]) for line in lines if line[0] in "df"}


def test_every_folder_of_the_layout_is_made() -> None:
    """Each with one owner, who may write there."""
    at, made = BoxLayout(), folders()
    owned = {
        at.site: "root",
        at.local: "root",
        at.facts_store: "bsfg-facts",
        at.control_store: "bsfg-control",
        at.agent_state: "bsfg-agent",
        at.keeper_state: "bsfg-keeper",
        at.config: "root",
        at.sessions: "bsfg-keeper",
        at.keeper_run: "bsfg-keeper",
        at.keeper_boot: "bsfg-keeper",
        at.watchdog_state: "bsfg-watchdog",
        at.watchdog_run: "bsfg-watchdog",
        at.sensor_run: "bsfg-sensor",
        at.names_run: "bsfg-names",
        at.facts_run: "root",
        at.agent_run: "root",
        at.enrol_run: "root",
        at.pki: "root",
        at.status: "root",
        at.network: "root",
    }
    assert {str(path): made[str(path)][1] for path in owned} == {str(path): user for path, user in owned.items()}
    for secret in (
        *(at.local, at.facts_store, at.control_store, at.agent_state, at.keeper_state, at.keeper_boot),
        *(at.watchdog_state, at.sensor_run),
    ):
        assert made[str(secret)][0] == "0700"
    assert made[str(at.facts_run)] == ("0750", "root", "bsfg-facts")
    assert made[str(at.agent_run)] == ("0750", "root", "bsfg-agent")
    assert made[str(at.status)] == ("3770", "root", "bsfg"), "sticky: nobody replaces another's document"
    assert not [path for path, (mode, _, _) in made.items() if int(mode, 8) & 0o002], "world-writable"


def test_every_status_document_has_its_owner_from_the_start() -> None:
    """So that nobody can put one in another's name into the shared folder first."""
    made, at = folders(), BoxLayout()
    documents = {"site": "root", "local": "root", "stick": "root", "carry": "root"}
    documents |= {name: f"bsfg-{name}" for name in ("keeper", "agent", "watchdog", "sensor", "enrol", "names")}
    documents["names-sets"] = "bsfg-watchdog"
    for name, user in documents.items():
        assert made[str(at.status_document(name))] == ("0640", user, "bsfg")


def test_the_watchdog_looks_where_the_layout_says() -> None:
    """It stands below the box's layout and has paths of its own."""
    at, choices = BoxLayout(), Choices()
    assert (at.status, at.keeper_socket, at.pki) == (choices.status, choices.keeper, choices.pki)
    assert at.node_config == choices.node
    assert choices.users == {User.ROOT, User.CONSOLE}
    assert at.watchdog_state == choices.state
    assert at.readings_socket == choices.run / READINGS == listening.SOCKET
    assert choices.sensor_user == listening.SENSOR_USER == int(User.SENSOR)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_service_cannot_speak_in_another_ones_name(open_folder: Path) -> None:
    """By the kernel's word: it replaces its own document in the shared folder, and not another's."""
    status = open_folder / "status"
    status.mkdir()
    os.chown(status, 0, STATUS_GROUP)
    status.chmod(0o3770)
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "user, folder, own, other = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]\n"
        "os.setgroups([950]); os.setgid(user); os.setuid(user)\n"
        "def replaces(name):\n"
        "    (folder / '.new').write_text('x')\n"
        "    try:\n        os.replace(folder / '.new', folder / name); return True\n"
        "    except OSError:\n        os.unlink(folder / '.new'); return False\n"
        "print(replaces(own), replaces(other))\n"
    )
    for name, user in (("agent.json", User.AGENT), ("keeper.json", User.KEEPER)):
        (status / name).write_text("{}")
        os.chown(status / name, int(user), STATUS_GROUP)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, str(int(User.AGENT)), str(status), "agent.json", "keeper.json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
    assert (status / "agent.json").stat().st_gid == STATUS_GROUP
