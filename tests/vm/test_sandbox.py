# SPDX-License-Identifier: Apache-2.0
"""The sandbox of each service, attacked from inside: a program that tries everything, in the place of the service.

It gets the unit's user and its drop-in, and nothing else is changed. The same program without the drop-in shows that
the attacks are good.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm import inside
from tests.vm.conftest import fresh
from tests.vm.golden import Golden
from tools.image.hardening.sandbox import OURS
from tools.image.launcher import STOCK
from tools.vm import guest
from tools.vm.agent import Agent
from tools.vm.journey import autonomous

UNITS = "/usr/lib/systemd/system"
PLACES = (
    *("/usr", "/etc", "/run", "/var", "/boot", "/run/systemd/network"),
    *(f"/run/bsfg/{name}" for name in ("config", "status", "session", "watchdog", "sensor")),
    *(f"/var/lib/bsfg/{name}" for name in ("facts", "agent", "keeper", "control", "pki", "site", "local", "watchdog")),
)
KEPT = ("User=", "Group=", "DynamicUser=", "SupplementaryGroups=", "AmbientCapabilities=")
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ENODEV", "ENXIO"}
WRITES = {
    "bsfg-agent.service": {"/var/lib/bsfg/agent", "/run/bsfg/status"},
    "bsfg-carry.service": {"/run/bsfg/status"},
    "bsfg-enrol.service": {"/var/lib/bsfg/pki", "/run/bsfg/status"},
    "bsfg-keeper.service": {"/var/lib/bsfg/keeper", "/var/lib/bsfg/pki", "/run/bsfg/session", "/run/bsfg/status"},
    "bsfg-local.service": {"/var/lib/bsfg/local", "/run/bsfg/config", "/run/bsfg/status"},
    "bsfg-names-sets.service": {"/run/bsfg/status", "/run/bsfg/watchdog"},
    "bsfg-names.service": {"/run/bsfg/status"},
    "bsfg-site.service": {
        *("/run/bsfg/config", "/run/bsfg/status", "/run/systemd/network", "/var/lib/bsfg/site", "/var/lib/bsfg/pki"),
    },
    "bsfg-stick.service": {"/var/lib/bsfg/site", "/run/bsfg/status"},
    "bsfg-trial.service": {"/var/lib/bsfg/site", "/run/bsfg/status"},
    "bsfg-sensor.service": {"/run/bsfg/sensor", "/run/bsfg/status"},
    "bsfg-watchdog.service": {"/run/bsfg/status", "/run/bsfg/watchdog", "/var/lib/bsfg/watchdog"},
    "nats-control.service": {"/var/lib/bsfg/control"},
    "nats-facts.service": {"/var/lib/bsfg/facts"},
}
NETWORK = {
    *("bsfg-agent.service", "bsfg-enrol.service", "bsfg-names.service", "nats-control.service", "nats-facts.service"),
}
NETLINK = {
    *("bsfg-audit.service", "bsfg-firewall-device@.service", "bsfg-firewall-sets.service", "bsfg-firewall.service"),
    *(
        "bsfg-dark.service",
        "bsfg-names-sets.service",
        "bsfg-ports.service",
        "bsfg-sensor.service",
        "bsfg-watchdog.service",
    ),
}
SEES = (NETWORK | NETLINK | {"bsfg-console@.service"}) - {"bsfg-sensor.service"}
"""Who shares the box's network. The status page shows its ports, and has no socket for it; the sensor hears the kernel
by netlink, in a network with nothing in it."""
PRIVILEGES = {
    "net_admin": 1 << 12,
    "sys_module": 1 << 16,
    "chown": 1 << 0,
    "audit_control": 1 << 30,
    "audit_read": 1 << 37,
    "sys_ptrace": 1 << 19,
}
HOLDS = {
    "bsfg-audit.service": "audit_control",
    "bsfg-dark.service": "net_admin",
    "bsfg-firewall-device@.service": "net_admin",
    "bsfg-firewall-sets.service": "net_admin",
    "bsfg-firewall.service": "net_admin",
    "bsfg-local.service": "chown",
    "bsfg-names-sets.service": "net_admin",
    "bsfg-sensor.service": "sys_ptrace",
    "bsfg-site.service": "chown",
    "bsfg-usb.service": "sys_module",
    "bsfg-watchdog.service": "net_admin audit_control audit_read",
}
TPM = {"bsfg-keeper.service", "bsfg-local.service"}
ESP = {"bsfg-installer.service", "bsfg-site.service"}

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def agent(golden: Golden) -> Iterator[Agent]:
    """A copy of the golden box, running; its agent."""
    copy = golden.box.copy(fresh("test_sandbox") / "box")
    with copy.running("sandbox") as machine:
        agent = machine.wait_agent()
        guest.wait_documents(agent, autonomous, "everything has started", 180)
        yield agent
    copy.forget()


@pytest.fixture(scope="module")
def found(agent: Agent) -> Found:
    """What the program got done in the place of each service; under ``bare`` without a sandbox, as root."""
    agent.check("/usr/bin/mkdir", "-p", "/run/attack")
    agent.write("/run/attack/program.py", inside.SANDBOXED.encode())
    for unit in OURS:
        _unit(agent, unit)
    _write_unit(agent, "bare", "")
    agent.check("/usr/bin/systemctl", "daemon-reload")
    return {unit: _attack(agent, _name(unit)) for unit in OURS} | {"bare": _attack(agent, "bare")}


def _name(unit: str) -> str:
    return unit.removesuffix(".service").rstrip("@")


def _unit(agent: Agent, unit: str) -> None:
    text = agent.read(f"{UNITS}/{unit}").decode()
    kept = "\n".join(line for line in text.splitlines() if line.startswith(KEPT))
    drop_in = agent.read(f"{UNITS}/{unit}.d/50-sandbox.conf").decode().replace("%I", "tty1")
    _write_unit(agent, _name(unit), f"{kept}\n{drop_in}")


def _write_unit(agent: Agent, name: str, text: str) -> None:
    start = f"/{STOCK} -I /run/attack/program.py '{' '.join(PLACES)}'"
    agent.write(
        f"/run/systemd/system/attack-{name}.service",
        f"[Service]\n{text}\n[Service]\nType=oneshot\nExecStart={start}\nExecStartPost=\nTimeoutStartSec=60\n"
        f"StandardOutput=truncate:/run/attack/{name}.json\nStandardError=journal\nEnvironment=LD_PRELOAD=/run/attack/x.so\n".encode(),
    )


def _attack(agent: Agent, name: str) -> dict[str, Any]:
    agent.check("/usr/bin/systemctl", "start", f"attack-{name}.service", seconds=120)
    values: dict[str, Any] = json.loads(agent.read(f"/run/attack/{name}.json"))
    return values


def services(found: Found) -> list[tuple[str, dict[str, Any]]]:
    """Those with a sandbox."""
    return [(unit, found[unit]) for unit in OURS]


def test_the_attacks_are_good(found: Found) -> None:
    """Without a sandbox, root gets most of it done."""
    bare = found["bare"]
    assert bare["disk"] == bare["tpm"] == bare["kernel setting"] == bare["mount"] == "done"
    assert bare["families"]["AF_PACKET"] == bare["families"]["AF_NETLINK"] == bare["families"]["AF_INET"] == "done"
    assert bare["write"]["/run"] == bare["write"]["/var/lib/bsfg/facts"] == "done"
    assert bare["others"] > 10
    assert bare["nnp"] == "0"


def test_no_new_privileges(found: Found) -> None:
    """Whatever a service starts; and its system calls are filtered."""
    assert {unit: values["nnp"] for unit, values in services(found) if values["nnp"] != "1"} == {}
    assert {unit: values["seccomp"] for unit, values in services(found) if values["seccomp"] != "2"} == {}


def test_capabilities(found: Found) -> None:
    """Each has those that it needs, which is none for most."""
    for unit, values in services(found):
        held = sum(PRIVILEGES[name] for name in HOLDS.get(unit, "").split())
        assert int(values["privileges"], 16) == held, unit


def test_foreign_files_cannot_be_written(found: Found) -> None:
    """Each writes what is its own, and nothing else."""
    wrong = {}
    for unit, values in services(found):
        done = {place for place, result in values["write"].items() if result == "done"}
        if done != WRITES.get(unit, set()):
            wrong[unit] = done
    assert wrong == {}


def test_private_places(found: Found) -> None:
    """Each has a /tmp of its own, with nothing in it."""
    assert {unit: values["tmp"] for unit, values in services(found) if values["tmp"]} == {}


def test_no_disk(found: Found) -> None:
    """The device does not open for anybody but the installer, which a boot entry of its own starts and nothing else."""
    assert {unit for unit, values in services(found) if values["disk"] not in REFUSED} == {"bsfg-installer.service"}


def test_only_the_keeper_opens_the_tpm(found: Found) -> None:
    """And systemd-creds, for the local keys."""
    assert {unit for unit, values in services(found) if values["tpm"] not in REFUSED} == TPM
    assert {unit for unit, values in services(found) if values["raw tpm"] not in REFUSED} == set()


def test_kernel_cannot_be_set(found: Found) -> None:
    """Nor asked for what it gives to few."""
    for unit, values in services(found):
        asked = ("kernel setting", "mount", "bpf", "keyring", "trace", "io_uring")
        assert {what: values[what] for what in asked if values[what] not in REFUSED} == {}, unit
        assert values["module"] in REFUSED or unit == "bsfg-usb.service"


def test_security_switches(found: Found) -> None:
    """IPE cannot be switched off; the ESP is not seen but by who looks there for a site configuration."""
    for unit, values in services(found):
        assert values["security switch"] in REFUSED, unit
        assert values["esp"] in REFUSED or unit in ESP, unit


def test_socket_families(found: Found) -> None:
    """Those that each one speaks; and the others have no network at all."""
    missing = {*REFUSED, "EAFNOSUPPORT"}
    for unit, values in services(found):
        families = values["families"]
        assert families["AF_PACKET"] in missing, unit
        assert families["AF_ALG"] in missing, unit
        assert (families["AF_INET"] == "done") is (unit in NETWORK), unit
        assert (families["AF_NETLINK"] == "done") is (unit in NETLINK), unit
        assert ("uplink0" in values["interfaces"]) is (unit in SEES), unit


def test_other_processes_are_not_seen(found: Found) -> None:
    """But by root, who would see them anyway, and by the sensor, whose work it is."""
    others = {unit: values["others"] for unit, values in services(found) if values["user"]}
    assert {unit for unit, number in others.items() if number > 3} == {"bsfg-sensor.service"}


def test_no_namespaces(found: Found) -> None:
    """Of any kind."""
    for unit, values in services(found):
        assert set(values["namespaces"].values()) <= REFUSED, unit


def test_nothing_else_runs(found: Found) -> None:
    """Neither a copy of a program, nor one with other rights, nor memory that was written."""
    for unit, values in services(found):
        for what in ("run", "setuid", "written memory"):
            assert values[what] in REFUSED, (unit, what)


def test_variables_choose_nothing(found: Found) -> None:
    """A library that a variable names is not loaded."""
    assert {unit: values["variables"] for unit, values in services(found) if values["variables"]} == {}


def test_nobody_listens_where_he_should_not(agent: Agent) -> None:
    """What listens: the brokers and the agent; nothing on the uplink."""
    text = (
        "import json; print(json.dumps([line.split()[1] for name in ('tcp', 'tcp6')"
        " for line in open('/proc/net/' + name).readlines()[1:] if line.split()[3] == '0A']))"
    )
    listening = {place.split(":")[0] for place in json.loads(agent.python(text))}
    assert "00000000" not in listening
    assert "0" * 32 not in listening


def test_the_services_themselves_are_shut_in(agent: Agent) -> None:
    """Those that run have the sandbox that was attacked here, and work in it: memory, networks, filters."""
    for unit in ("nats-facts", "bsfg-agent", "bsfg-keeper", "bsfg-sensor", "bsfg-watchdog"):
        shown = agent.check(
            "/usr/bin/systemctl",
            "show",
            unit,
            "--property=ActiveState,MemoryMax,NoNewPrivileges,RestrictNetworkInterfaces",
        )
        values = dict(line.split("=", 1) for line in shown.splitlines())
        assert values["ActiveState"] == "active", unit
        assert values["NoNewPrivileges"] == "yes", unit
        assert values["MemoryMax"].isdigit(), unit
    shown = agent.check("/usr/bin/systemctl", "show", "nats-facts", "--property=RestrictNetworkInterfaces")
    assert shown == "RestrictNetworkInterfaces=~uplink0"
