# SPDX-License-Identifier: Apache-2.0
"""What a running box says of itself, asked through the agent of an image of profile ``test``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tools.vm import pace
from tools.vm.agent import Agent
from tools.vm.faults import AgentError, AwaitedError

Documents = Mapping[str, Mapping[str, Any]]
"""Status documents by name."""

STATUS: Final = "/run/bsfg/status"
_AGAIN_S: Final = 2.0

NAMES: Final = ("agent", "enrol", "keeper", "local", "names", "names-sets", "sensor", "site", "stick", "watchdog")
"""The documents of a box. They are read one by one: a program in the guest that reads them all would take longer, on an
emulated processor, than what is waited for."""

_OBSERVE: Final = r"""
import glob, json, os, pathlib, stat, subprocess, time
def text(path):
    try:
        return pathlib.Path(path).read_bytes().decode("utf-8", "replace").strip("\0\n")
    except OSError as error:
        return "!" + error.strerror
def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return "!" + str(error)
def variable(name):
    found = glob.glob("/sys/firmware/efi/efivars/" + name + "-*")
    return pathlib.Path(found[0]).read_bytes()[4:].hex() if found else ""
def listeners(name):
    out = []
    for line in text("/proc/net/" + name).splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" or (name.startswith("udp") and fields[2].endswith(":0000")):
            out.append(fields[1])
    return sorted(set(out))
mounts = {}
for line in text("/proc/mounts").splitlines():
    device, where, kind, options = line.split()[:4]
    mounts[where] = [device, kind, options.split(",")]
print(json.dumps({
    "secure_boot": variable("SecureBoot"),
    "setup_mode": variable("SetupMode"),
    "lockdown": text("/sys/kernel/security/lockdown"),
    "lsm": text("/sys/kernel/security/lsm"),
    "ipe_enforce": text("/sys/kernel/security/ipe/enforce"),
    "ipe_policies": sorted(p.name for p in pathlib.Path("/sys/kernel/security/ipe/policies").glob("*")),
    "cmdline": text("/proc/cmdline"),
    "mounts": mounts,
    "verity": said("/usr/sbin/veritysetup", "status", "root"),
    "require_signatures": text("/sys/module/dm_verity/parameters/require_signatures"),
    "pcrs": {str(n): text("/sys/class/tpm/tpm0/pcr-sha256/" + str(n)).lower() for n in (7, 11, 12, 13, 15)},
    "machine_id": text("/etc/machine-id"),
    "image": text("/usr/lib/bsfg/image.json"),
    "failed_units": said("/usr/bin/systemctl", "list-units", "--failed", "--plain", "--no-legend"),
    "tainted": text("/proc/sys/kernel/tainted"),
    "listeners": {name: listeners(name) for name in ("tcp", "tcp6", "udp", "udp6")},
    "entries": sorted(os.path.basename(p) for p in glob.glob("/boot/EFI/Linux/*")),
    "uptime_s": float(text("/proc/uptime").split()[0]),
    "unix_s": time.time(),
    "memory": {l.split(":")[0]: int(l.split()[1]) for l in text("/proc/meminfo").splitlines() if l.startswith("Mem")},
    "credentials": sorted(os.listdir("/run/credentials")) if os.path.isdir("/run/credentials") else [],
}))
"""


def documents(agent: Agent) -> Documents:
    """The status documents of all services, as they are now."""
    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        try:
            found[name] = json.loads(agent.read(f"{STATUS}/{name}.json"))
        except AgentError:
            if not agent.connected:
                raise
            continue  # it is not there
        except ValueError as error:
            found[name] = {"unreadable": str(error)}
    return found


def state(found: Documents, name: str) -> str:
    """The state of a service; empty when it has said nothing."""
    return str(found.get(name, {}).get("state", ""))


def wait_documents(agent: Agent, ready: Callable[[Documents], bool], what: str, seconds: float = 120.0) -> Documents:
    """Wait until the status documents are as wanted.

    :param seconds: on an idle reference machine. :raises AwaitedError: they are not; with what they say.
    """
    deadline = time.monotonic() + pace.limit(seconds)
    found: Documents = {}
    while True:
        try:
            found = documents(agent)
        except AgentError as error:
            if time.monotonic() > deadline:
                raise AwaitedError(f"{what}: {error}") from error
        if found and ready(found):
            return found
        if time.monotonic() > deadline:
            told = json.dumps(found, indent=1, sort_keys=True)
            raise AwaitedError(f"{what}: not so within {pace.limit(seconds):.0f} s; the services say:\n{told}")
        time.sleep(_AGAIN_S)


def observe(agent: Agent) -> dict[str, Any]:
    """What can be seen of a box from inside: how it was booted, what is mounted, what listens."""
    seen: dict[str, Any] = json.loads(agent.python(_OBSERVE, seconds=pace.limit(90)))
    return seen


def pcr15_is_extended(seen: Mapping[str, Any]) -> bool:
    """Whether a volume key was measured: PCR 15 is zero before."""
    return set(seen["pcrs"]["15"]) != {"0"}
