# SPDX-License-Identifier: Apache-2.0
"""Boxes for the tests of the status page: folders as a box has them, one for each thing that can be told.

``python -m tests.consoles`` writes the pages of all of them into ``tests/golden/console``, for people to read.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from appliance.boundary.names import parse_zone
from appliance.console.codes import Overall
from appliance.console.judgement import Judgement, judge
from appliance.console.model import Box, Looker
from appliance.console.page import render
from appliance.console.system import Disk
from appliance.console.texts import load
from appliance.keys.keeper.port import KeeperState, KeeperStatus
from appliance.keys.keeper.values import to_json
from appliance.node.status import BoundaryStatus, BrokerStatus, CrossingReport, Problem, StatusDocument

GOLDEN: Final = Path(__file__).parent / "golden" / "console"
LICENCE: Final = "# SPDX-License-Identifier: Apache-2.0\n"
NOW: Final = 1_796_133_785.0
"""2026-12-01 14:03:05 UTC."""
BOOTED: Final = 7 * 3600.0
"""Seconds since it was switched on."""
FINGERPRINT: Final = "6f0c1de2" * 8
EVIDENCE: Final = "5f0c2a9e" * 8
REQUEST: Final = "BSFG:R1:" + "EIRCEIRSR5T6D3UCKD5X" * 10 + "WNFUOHYTU463XZI"
"""As long as a request for release is, and no request."""
_EFI: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_LOADER: Final = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@dataclass(slots=True)
class FixedClock:
    """A clock that a test sets."""

    now: float = NOW
    up: float = BOOTED

    def unix_s(self) -> float:
        """The wall clock."""
        return self.now

    def uptime_s(self) -> float:
        """Seconds since boot."""
        return self.up

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.up += seconds


def ms(ago_s: float = 0.0) -> int:
    """A moment before :data:`NOW`, in Unix milliseconds."""
    return int((NOW - ago_s) * 1000)


def put(root: Path, path: str, content: str | bytes) -> None:
    """Write a file of the box."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def tell(root: Path, name: str, ago_s: float = 1.0, **values: Any) -> None:
    """Write a status document."""
    document = {"schema": 1, "name": name, "pid": 7, "updated_at_unix_ms": ms(ago_s), **values}
    put(root, f"run/bsfg/status/{name}.json", json.dumps(document))


def agent(root: Path, **changes: Any) -> None:
    """Let the agent write its document, in its own words."""
    crossings = (
        CrossingReport("push audit", "push", "audit", "enterprise", reachable=True, last_exchange_unix_ms=ms(4)),
        CrossingReport("pull audit", "pull", "audit", "enterprise", reachable=True, last_exchange_unix_ms=ms(2)),
    )
    document = StatusDocument(
        name="agent",
        zone="plant-a",
        version="0.1.0",
        pid=7,
        ready=True,
        mode="normal",
        mode_since_unix_ms=ms(3 * 3600),
        mode_changes=1,
        updated_at_unix_ms=ms(1),
        keys="tpm",
        boundary=BoundaryStatus(state="ready", time="hub_token", unix_ms=ms(1)),
        broker=BrokerStatus(True, "2.15.1", True, 1),
        crossings=crossings,
    )
    replace(document, **changes).write(root / "run/bsfg/status")


def away(last_s: float | None = 7260.0, to_send: int = 4711) -> dict[str, Any]:
    """What an agent says that cannot reach the hub."""
    last = 0 if last_s is None else ms(last_s)
    return {
        "mode": "autonomous",
        "mode_since_unix_ms": ms(7255),
        "crossings": (
            CrossingReport("push audit", "push", "audit", "enterprise", lag=to_send, last_exchange_unix_ms=last),
            CrossingReport("pull audit", "pull", "audit", "enterprise", last_exchange_unix_ms=last),
        ),
        "problems": tuple(
            Problem("link_down", "198.51.100.7:8443: timed out", "", f"{way} audit") for way in ("push", "pull")
        ),
    }


def keeper(root: Path, state: KeeperState = KeeperState.READY, problem: str = "", kind: str = "tpm") -> None:
    """Let the keeper write its document, in its own words."""
    status = KeeperStatus(state, kind, parse_zone("plant-a"), 2, 0, 0, {}, 3, 9, problem)
    tell(root, "keeper", **to_json(status))


def port(root: Path, name: str, *, carrier: bool = True, mac: str = "02:00:5e:10:00:01") -> None:
    """A network device."""
    folder = f"sys/class/net/{name}"
    put(root, f"{folder}/address", mac + "\n")
    put(root, f"{folder}/device/vendor", "0x1af4\n")
    put(root, f"{folder}/carrier", "1\n" if carrier else "0\n")


def network(root: Path, *, uplink: bool = True, addresses: bool = True) -> None:
    """Uplink and plant side, as a kernel tells of them."""
    port(root, "uplink0", carrier=uplink)
    port(root, "plant0", mac="02:00:5e:10:00:02")
    put(
        root,
        "proc/self/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        + ("uplink0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" if addresses else "")
        + ("uplink0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" if addresses else "")
        + "plant0\t00140A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    )
    local = ["127.0.0.1", *(["192.0.2.20"] if addresses else []), "10.10.20.1"]
    put(root, "proc/self/net/fib_trie", "".join(f"   |-- {each}\n      /32 host LOCAL\n" for each in local))
    v6 = "20010db8000000000000000000000020 02 40 00 80  uplink0\n" if addresses else ""
    put(root, "proc/self/net/if_inet6", v6 + "fe800000000000000000000000000001 02 40 20 80  uplink0\n")


def site(root: Path, **changes: Any) -> None:
    """The accepted site configuration; written hours ago, once."""
    values = {"state": "accepted", "zone": "plant-a", "version": 3, "hub": "hub.example.com"}
    tell(root, "site", ago_s=BOOTED - 10, **(values | changes))


def variable(root: Path, name: str, content: bytes, vendor: str = _EFI) -> None:
    """A firmware variable."""
    put(root, f"sys/firmware/efi/efivars/{name}-{vendor}", b"\6\0\0\0" + content)


def machine(root: Path) -> None:
    """Image, names, firmware."""
    put(root, "usr/lib/bsfg/image.json", json.dumps({"version": "0.1.0", "profile": "metal", "built_unix_s": 1}))
    put(root, "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    put(root, "sys/class/dmi/id/product_serial", "XK-2040-0017\n")
    variable(root, "SecureBoot", b"\1")
    variable(root, "SetupMode", b"\0")
    variable(root, "LoaderEntrySelected", "bsfg_0.1.0.efi\0".encode("utf-16-le"), _LOADER)
    (root / "var").mkdir(exist_ok=True)


def healthy(root: Path) -> None:
    """A box on which everything is as it should be."""
    machine(root)
    network(root)
    site(root)
    keeper(root)
    agent(root)
    tell(root, "watchdog", state="open", since_unix_ms=ms(BOOTED - 60), problems=[])


# -- one box for everything that can be told ---------------------------------------------------------------------------


def _quarantined(root: Path) -> None:
    healthy(root)
    keeper(root, KeeperState.LATCHED, "key_latched: counter 2")
    agent(root, **{**away(1500), "boundary": BoundaryStatus(state="latched")})
    in_quarantine(root)


def in_quarantine(root: Path, code: str = "kexec_loaded", detail: str = "9 MB, not signed", **changes: Any) -> None:
    """Let the watchdog write its document, as it stands on a box in quarantine."""
    stands = {"phase": "quarantined", "code": code, "detail": detail, "counter": 2, "evidence": EVIDENCE}
    stands |= {"request": REQUEST}
    problems = [
        {"reason": code, "detail": detail, "hint": "", "where": "kernel"},
        {"reason": "probe_blind", "detail": "seen 25 s ago", "hint": "", "where": "quote"},
    ]
    quarantine = {**stands, **changes}
    tell(root, "watchdog", state=quarantine["phase"], since_unix_ms=ms(1500), quarantine=quarantine, problems=problems)


def _quarantined_tpm_busy(root: Path) -> None:
    healthy(root)
    keeper(root, KeeperState.LATCHED, "tpm_busy: it takes no command")
    agent(root, **{**away(1500), "boundary": BoundaryStatus(state="latched")})
    in_quarantine(root, "operator_request", "the cabinet was open (uid 0)", counter=None, evidence="", request="")


def _quarantined_stick(root: Path) -> None:
    _quarantined(root)
    tell(root, "stick", state="written", detail="bsfg/evidence-5f0c2a9e5f0c2a9e")


def _stopped_stick(root: Path) -> None:
    _much_at_once(root)
    tell(root, "stick", state="restarting", detail="bsfg/site.toml on the USB stick: taken version 1 of plant-a")


def _released(root: Path) -> None:
    healthy(root)
    agent(root, **away(1500))
    in_quarantine(root, phase="released")
    tell(root, "watchdog", state="released", since_unix_ms=ms(60), quarantine={"phase": "released"}, problems=[])


def _in_doubt(root: Path) -> None:
    healthy(root)
    keeper(root, KeeperState.TPM_BUSY)
    agent(root, **away(1500))
    tell(root, "watchdog", state="in_doubt", since_unix_ms=ms(60), quarantine={"phase": "in_doubt"}, problems=[])


def _not_configured(root: Path) -> None:
    machine(root)
    port(root, "enp1s0")
    port(root, "enp2s0", carrier=False, mac="02:00:5e:10:00:02")
    tell(root, "site", ago_s=100, state="missing")


def _site_refused_first(root: Path) -> None:
    _not_configured(root)
    refused = {"reason": "bad_site", "line": 14, "detail": "site.toml, line 14: zone: not a zone name"}
    tell(root, "site", ago_s=100, state="missing", refused=refused)


def _starting(root: Path) -> None:
    machine(root)
    network(root)
    site(root)
    agent(root, ready=False, mode="autonomous", crossings=(), broker=BrokerStatus())


def _agent_dead(root: Path) -> None:
    healthy(root)
    agent(root, updated_at_unix_ms=ms(95))


def _disk_full(root: Path) -> None:
    healthy(root)
    agent(root, **away(90_000, 2_000_000))


def _tpm_absent(root: Path) -> None:
    healthy(root)
    keeper(root, KeeperState.TPM_ABSENT, "tpm_absent: /dev/tpmrm0: No such device")
    agent(root, **{**away(), "problems": (Problem("tpm_absent", "", "", "boundary"),)})
    tell(root, "watchdog", state="closed", since_unix_ms=ms(7200), problems=[{"reason": "tpm_absent", "detail": ""}])


def _refused(root: Path) -> None:
    _waiting(root)
    tell(root, "enrol", state="refused", fingerprint=FINGERPRINT, problems=[{"reason": "voucher_foreign"}])


def _waiting(root: Path) -> None:
    healthy(root)
    keeper(root, KeeperState.NOT_ENROLLED)
    agent(root, **{**away(None, 12), "problems": (Problem("not_enrolled", "", "", "boundary"),)})
    tell(root, "enrol", state="waiting", fingerprint=FINGERPRINT, problems=[])


def _not_enrolled(root: Path) -> None:
    _waiting(root)
    tell(
        root,
        "enrol",
        state="calling",
        fingerprint=FINGERPRINT,
        problems=[{"reason": "link_down"}],
        since_unix_ms=ms(300),
    )


def _on_its_own(root: Path) -> None:
    healthy(root)
    agent(root, **away())


def _cable(root: Path) -> None:
    _on_its_own(root)
    network(root, uplink=False, addresses=False)


def _no_address(root: Path) -> None:
    _on_its_own(root)
    network(root, addresses=False)


def _catching_up(root: Path) -> None:
    healthy(root)
    push = CrossingReport("push audit", "push", "audit", "enterprise", lag=981, reachable=True)
    agent(
        root,
        mode="reconciling",
        mode_since_unix_ms=ms(20),
        crossings=(replace(push, last_exchange_unix_ms=ms(1)),),
    )


def _air_gapped(root: Path) -> None:
    healthy(root)
    site(root, air_gapped=True, hub="")
    agent(root, **{**away(None, 88_000), "problems": ()})


def _new_site_refused(root: Path) -> None:
    healthy(root)
    refused = {"reason": "site_rollback", "line": 0, "detail": "site.toml: version 2; the box has had 3"}
    site(root, refused=refused)


def _on_trial(root: Path) -> None:
    healthy(root)
    site(root, version=4, refused=None, trial_ends_unix_ms=ms(-400))


def _development(root: Path) -> None:
    healthy(root)
    keeper(root, kind="swtpm")
    variable(root, "LoaderBootCountPath", "\\EFI\\Linux\\bsfg_0.1.0+2-1.efi\0".encode("utf-16-le"), _LOADER)


def _much_at_once(root: Path) -> None:
    _on_its_own(root)
    network(root, uplink=False, addresses=False)
    port(root, "plant0", carrier=False)
    variable(root, "SecureBoot", b"\0")
    keeper(root, KeeperState.TPM_REFUSED, "tpm_refused: PCR 7 differs")
    problems = (
        Problem("log_damaged", "audit: fact 9 is altered", "", "audit"),
        Problem("broker_unavailable", "127.0.0.1:4222: refused", "", "broker"),
        Problem("a_code_of_the_future", "seen twice", ""),
    )
    agent(root, **{**away(), "problems": problems, "broker": BrokerStatus()})
    put(root, "run/bsfg/status/extra.json", "no JSON")


CASES: Final[dict[str, tuple[Overall, Callable[[Path], None]]]] = {
    "quarantined": (Overall.QUARANTINED, _quarantined),
    "quarantined_stick": (Overall.QUARANTINED, _quarantined_stick),
    "quarantined_tpm_busy": (Overall.QUARANTINED, _quarantined_tpm_busy),
    "released": (Overall.RELEASED, _released),
    "trouble_quarantine_in_doubt": (Overall.TROUBLE, _in_doubt),
    "not_configured": (Overall.NOT_CONFIGURED, _not_configured),
    "not_configured_bad_file": (Overall.NOT_CONFIGURED, _site_refused_first),
    "starting": (Overall.STARTING, _starting),
    "stopped_agent_dead": (Overall.STOPPED, _agent_dead),
    "stopped_disk_full": (Overall.STOPPED, _disk_full),
    "stopped_much_at_once": (Overall.STOPPED, _much_at_once),
    "stopped_stick": (Overall.STOPPED, _stopped_stick),
    "trouble_tpm_absent": (Overall.TROUBLE, _tpm_absent),
    "refused_voucher": (Overall.REFUSED, _refused),
    "waiting": (Overall.WAITING, _waiting),
    "not_enrolled": (Overall.NOT_ENROLLED, _not_enrolled),
    "on_its_own": (Overall.ON_ITS_OWN, _on_its_own),
    "on_its_own_no_cable": (Overall.ON_ITS_OWN, _cable),
    "on_its_own_no_address": (Overall.ON_ITS_OWN, _no_address),
    "catching_up": (Overall.CATCHING_UP, _catching_up),
    "air_gapped": (Overall.AIR_GAPPED, _air_gapped),
    "working": (Overall.WORKING, healthy),
    "working_site_refused": (Overall.WORKING, _new_site_refused),
    "working_site_on_trial": (Overall.WORKING, _on_trial),
    "working_software_tpm": (Overall.WORKING, _development),
}
"""By name of the golden page: the state it must be in, and how the box is made."""
DISKS: Final = {"stopped_disk_full": Disk(98, 12_000_000_000)}
EARLY: Final = {"starting": 42.0, "not_configured": 60.0}
"""Cases that are not :data:`BOOTED` old."""


def see(root: Path, name: str) -> tuple[Box, Judgement]:
    """Make a box, look at it, and judge. The disk is made up: a folder has none of its own."""
    CASES[name][1](root)
    looker = Looker(root, clock=FixedClock(up=EARLY.get(name, BOOTED)))
    box = replace(looker.look(), disk=DISKS.get(name, Disk(31, 12_000_000_000)))
    return box, judge(box)


def page(root: Path, name: str) -> str:
    """The page of a case, as a file has it."""
    return "\n".join(render(*see(root, name), load())) + "\n"


def golden(name: str) -> str:
    """The page that was written, without its first line, which is for lawyers."""
    return (GOLDEN / f"{name}.txt").read_text("ascii").removeprefix(LICENCE)


def main() -> int:
    """Write all golden pages."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.txt").write_text(LICENCE + page(Path(folder), name), "ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
