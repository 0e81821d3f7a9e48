# SPDX-License-Identifier: Apache-2.0
"""A running box holds what ``hardening/`` says, and withstands attacks from inside: by root, and by a service's user.

One boot for all of it; the last test ends it. The box needs no hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.vm import inside
from tests.vm.conftest import fresh
from tests.vm.golden import Golden
from tools.image import hardening
from tools.image.hardening.build import kept_programs
from tools.image.hardening.data import Area, controls
from tools.vm import guest
from tools.vm.agent import PYTHON
from tools.vm.hardware import TapNetwork, UserNetwork
from tools.vm.journey import autonomous, quarantined
from tools.vm.machine import Machine
from tools.vm.segment import Segment

REFUSED = {"EPERM", "EACCES"}
SETTINGS = {name: value.split() for name, _, value in (c.value.partition("=") for c in controls(Area.SYSCTL))}
HARMLESS = ("lib/crc-itu-t.ko.xz", "lib/crc7.ko.xz", "lib/crc8.ko.xz", "net/802/stp.ko.xz")
"""A small module that nothing has loaded: the first of these that there is."""


@pytest.fixture(scope="module")
def box(golden: Golden) -> Iterator[Machine]:
    """A copy of the golden box, running."""
    folder = fresh("test_hardening")
    copy = golden.box.copy(folder / "box")
    with (
        Segment(folder / "plant") as plant,
        copy.running("hardening", networks=(UserNetwork(), TapNetwork(plant.descriptor))) as machine,
    ):
        guest.wait_documents(machine.wait_agent(), _all_is_watched, "everything has started", 180)
        yield machine
    copy.forget()


def _all_is_watched(found: guest.Documents) -> bool:
    # the audit's records reach those who listen when they are made: what is refused before stands in the journal alone
    return autonomous(found) and guest.state(found, "watchdog") == "open"


@pytest.fixture(scope="module")
def files(box: Machine) -> dict[str, Any]:
    """Settings, programs, modules, and what should have been removed."""
    asked = {"settings": list(SETTINGS), "patterns": _removed()}
    done = box.agent.run(*_python(inside.FILES), stdin=json.dumps(asked).encode())
    found: dict[str, Any] = json.loads(done.text)
    return found


@pytest.fixture(scope="module")
def kernel(box: Machine) -> dict[str, Any]:
    """What root gets done against the kernel."""
    there = [name for name in HARMLESS if box.agent.python(_EXISTS, name) == "True"]
    found: dict[str, Any] = json.loads(box.agent.python(inside.KERNEL, there[0]))
    return found


_EXISTS = "import glob, sys; print(bool(glob.glob('/usr/lib/modules/*/kernel/' + sys.argv[1])))"


def _python(text: str) -> tuple[str, ...]:
    return (*PYTHON, text)


def _removed() -> list[str]:
    return [path for path in hardening.removed_paths("test") if not path.startswith("var/")]


# -- what is set -------------------------------------------------------------------------------------------------------


def test_command_line(box: Machine) -> None:
    """All of it, in its order, with nothing of it twice."""
    words = box.agent.read("/proc/cmdline").decode().split()
    ours = hardening.kernel_command_line("test")
    assert [word for word in words if word in ours] == ours


def test_settings(files: dict[str, Any]) -> None:
    """Each has its value."""
    assert {name: value for name, value in files["settings"].items() if value != SETTINGS[name]} == {}


def test_security_modules(box: Machine) -> None:
    """They are there; IPE enforces our policy."""
    loaded = box.agent.read("/sys/kernel/security/lsm").decode().strip().split(",")
    assert {"lockdown", "yama", "ipe", "landlock"} <= set(loaded)
    assert box.agent.read("/sys/kernel/security/ipe/enforce").strip() == b"1"
    active = box.agent.python(
        "import glob; print([open(p).read().strip() for p in glob.glob('/sys/kernel/security/ipe/policies/*/active')])"
    )
    assert "1" in active


def test_root_hash_is_signed(box: Machine) -> None:
    """The kernel has checked a signature, and would demand one."""
    assert box.agent.read("/sys/module/dm_verity/parameters/require_signatures").strip() == b"Y"
    assert "root_hash_sig_key_desc" in box.agent.check("/usr/sbin/dmsetup", "table", "root")


def test_firewall_is_loaded(box: Machine) -> None:
    """Both tables; the judge on both interfaces; the site's addresses in the sets."""
    rules = box.agent.check("/usr/sbin/nft", "list", "ruleset")
    assert "table inet bsfg" in rules
    for device in ("uplink0", "plant0"):
        assert f'device "{device}" priority filter; policy drop' in rules
    assert "elements" in box.agent.check("/usr/sbin/nft", "list", "set", "inet", "bsfg", "hub4")


def test_packet_socket(box: Machine) -> None:
    """A frame by root on the uplink is dropped and counted.

    Before the attacks below: they put the box into quarantine, and in the dark no rule is asked.
    """
    before = _dropped(box)
    box.agent.run(
        *_python(
            "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('uplink0', 0));"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1); s.send(b'\\xff' * 12 + b'\\x08\\x00' + b'x' * 60)"
        )
    )
    assert _dropped(box) == before + 1


def _dropped(box: Machine) -> int:
    rules = json.loads(box.agent.check("/usr/sbin/nft", "-j", "list", "table", "netdev", "bsfg"))["nftables"]
    return sum(
        part["counter"]["packets"]
        for rule in rules
        if rule.get("rule", {}).get("comment") == "HRD-NET-051"
        for part in rule["rule"]["expr"]
        if "counter" in part
    )


def test_masked_units(box: Machine) -> None:
    """None of them can be started."""
    shown = box.agent.check("/usr/bin/systemctl", "show", "--property=LoadState", "--value", *_started_masked())
    assert set(shown.split()) == {"masked"}
    assert box.agent.run("/usr/bin/systemctl", "start", "debug-shell.service").code


def _started_masked() -> list[str]:
    return [unit.replace("@.", "@x.") for unit in hardening.masked_units()]


def test_only_documented_units_run(box: Machine) -> None:
    """Of services: ours, and these of others."""
    listing = box.agent.check(
        "/usr/bin/systemctl", "list-units", "--type=service", "--state=running", "--plain", "--no-legend"
    )
    running = {line.split()[0] for line in listing.splitlines()}
    others = {unit for unit in running if not unit.startswith(("bsfg-", "nats-"))}
    assert others <= {
        "chrony.service",
        "qemu-guest-agent.service",
        "systemd-journald.service",
        "systemd-networkd.service",
        "systemd-udevd.service",
    }


def test_units_of_others(box: Machine) -> None:
    """They run nothing but the signed root's programs, and are bounded."""
    for unit in ("systemd-networkd", "systemd-udevd", "systemd-journald"):
        shown = box.agent.check("/usr/bin/systemctl", "show", "--property=NoExecPaths,MemoryMax,LimitCORE", unit)
        values = dict(line.split("=", 1) for line in shown.splitlines())
        assert values["NoExecPaths"] == "/", unit
        assert values["MemoryMax"].isdigit(), unit
        assert values["LimitCORE"] == "0", unit


def test_systemd_itself(box: Machine) -> None:
    """No key combination, no crash shell, a watchdog behind it."""
    shown = box.agent.check("/usr/bin/systemctl", "show", "--property=CtrlAltDelBurstAction,DefaultLimitCORE")
    assert "CtrlAltDelBurstAction=none" in shown
    assert "DefaultLimitCORE=0" in shown


def test_journal_is_bounded(box: Machine) -> None:
    """It is on disk, not in memory, and takes less than its bound."""
    size = box.agent.python(
        "import os; print(sum(os.path.getsize(os.path.join(f, n))"
        " for f, _, names in os.walk('/var/log/journal') for n in names),"
        " os.path.isdir('/run/log/journal') and len(os.listdir('/run/log/journal')))"
    )
    on_disk, in_memory = size.split()
    assert 0 < int(on_disk) <= 256 << 20
    assert in_memory in {"0", "False"}


def test_audit_is_locked(box: Machine) -> None:
    """Not even root takes a rule away."""
    assert "enabled 2" in box.agent.check("/usr/sbin/auditctl", "-s")
    assert box.agent.run("/usr/sbin/auditctl", "-D").code
    assert box.agent.run("/usr/sbin/auditctl", "-e", "0").code
    assert len(box.agent.check("/usr/sbin/auditctl", "-l").splitlines()) >= 10


# -- what is not there -------------------------------------------------------------------------------------------------


def test_programs_are_those_listed(files: dict[str, Any]) -> None:
    """And no other."""
    kept = kept_programs("test")
    assert [name for name in files["programs"] if not any(fnmatchcase(name, pattern) for pattern in kept)] == []


def test_removed_paths_are_gone(files: dict[str, Any]) -> None:
    """Shells, package manager, interpreters, network tools, generators, modules; what was one machine's own."""
    assert files["there"] == []


def test_no_setuid(kernel: dict[str, Any]) -> None:
    """And nothing that everybody may write."""
    assert kernel["setuid"] == []


def test_python_is_only_ours(box: Machine) -> None:
    """No prompt and no installer to be imported; nothing from where something can be written."""
    for module in ("pdb", "code", "pip", "ensurepip"):
        assert box.agent.run(*_python(f"import {module}")).code, module
    places = json.loads(box.agent.python("import json, sys; print(json.dumps(sys.path))"))
    assert places
    assert all(place.startswith("/usr/lib/") for place in places)


def test_denied_modules(box: Machine, files: dict[str, Any]) -> None:
    """Asked for by name, none is loaded."""
    denied = [name for c in controls(Area.MODULES) if not c.extra["load"] for name in c.words]
    assert set(denied) & set(files["modules"]) == set()
    for name in denied[:: max(1, len(denied) // 12)]:
        assert box.agent.run("/usr/sbin/modprobe", name).code, name


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_a_service_user_is_kept_out(box: Machine) -> None:
    """Of the kernel's parts that have no business with it; root, who is asked the same thing, is let in."""
    found = json.loads(box.agent.python(inside.SERVICE_USER))
    nobody = found["nobody"]
    assert {what: result for what, result in nobody.items() if result not in REFUSED} == {}
    assert found["root"] == {"kernel log": "done"}


def test_nobody_traces(kernel: dict[str, Any]) -> None:
    """Not even root, not even its own child."""
    assert kernel["trace"] in REFUSED


def test_proc_mem_does_not_override(kernel: dict[str, Any]) -> None:
    """A page that can only be read stays so."""
    assert kernel["force"] in {"EIO", "EFAULT"}


def test_unsigned_module_is_refused(kernel: dict[str, Any]) -> None:
    """Or a changed one; the same module as it was built is taken."""
    assert kernel["module without signature"] in {"EPERM", "EKEYREJECTED", "ENOKEY", "EBADMSG"}
    assert kernel["module with one bit changed"] in {"EPERM", "EKEYREJECTED", "EBADMSG"}
    assert kernel["module as it is"] in {"done", "EEXIST"}


def test_kernel_is_locked_down(box: Machine, kernel: dict[str, Any]) -> None:
    """And cannot be unlocked."""
    assert b"[integrity]" in box.agent.read("/sys/kernel/security/lockdown")
    assert kernel["lockdown off"] in {*REFUSED, "EINVAL"}
    assert kernel["memory device"] in {*REFUSED, "ENOENT"}


def test_no_vsyscall_page(kernel: dict[str, Any]) -> None:
    """No code at an address that is the same everywhere."""
    assert kernel["vsyscall"] is False


def test_no_debugfs(kernel: dict[str, Any]) -> None:
    """Root cannot mount it."""
    assert kernel["debugfs"] in {*REFUSED, "ENODEV"}


def test_no_swap(kernel: dict[str, Any]) -> None:
    """Only the head of the list."""
    assert kernel["swaps"] == 1


def test_a_crash_leaves_no_image(kernel: dict[str, Any]) -> None:
    """Of memory."""
    assert kernel["crash"] == []


def test_writable_places_run_nothing(kernel: dict[str, Any]) -> None:
    """A copy of a program that may be run where it is; nor memory that was written."""
    assert set(kernel["run"].values()) <= {"EACCES", "EPERM"}
    assert kernel["run what is there"] == 0
    assert kernel["written memory"] in REFUSED


def test_a_protocol_loads_no_driver(kernel: dict[str, Any]) -> None:
    """Sockets of families that the box does not speak."""
    missing = {"EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EPERM"}
    assert {key: result for key, result in kernel["protocols"].items() if result not in missing} == {}


def test_denials_are_recorded(box: Machine, kernel: dict[str, Any]) -> None:
    """What was refused above stands in the journal."""
    assert kernel
    said = box.agent.check("/usr/bin/journalctl", "--no-pager", "_TRANSPORT=audit", "--output=cat", seconds=120)
    for what in ("denied", "module", "peek"):
        assert f'key="{what}"' in said or f"key={what}" in said, what
    assert "IPE" in said or "ipe_op" in said


def test_a_refused_program_is_quarantine(box: Machine, kernel: dict[str, Any]) -> None:
    """The kernel's word that it refused one, out of the audit's records, is enough for the watchdog."""
    assert set(kernel["run"].values()) <= REFUSED

    def told(found: guest.Documents) -> bool:
        notes = found.get("watchdog", {}).get("notes", [])
        return quarantined(found) and "executable_refused" in {note["code"] for note in notes}

    guest.wait_documents(box.agent, told, "the watchdog hears of the program that was refused", 120)


def test_no_prompt_at_a_fault(box: Machine) -> None:
    """A boot that cannot be finished says so and starts again; nobody is asked for anything. It ends the box."""
    since = box.serial.position
    box.agent.start("/usr/bin/systemctl", "--no-block", "isolate", "emergency.target")
    asked = r"(?i)password:|login:|maintenance"
    box.wait("COULD NOT FINISH STARTING", what="the emergency text", since=since, never=[asked])
    assert box.wait_end("it starts again", 90).data["reason"] == "guest-reset"
