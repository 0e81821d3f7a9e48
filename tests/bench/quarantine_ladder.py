# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine_ladder [COUNT]``: how long each step of the ladder takes, natively.

A keeper on a software TPM, the kernel's firewall in a network namespace, a disk; a process of its own for each
quarantine, whose journal has the times. A TPM of hardware takes longer for ``lock`` and ``evidence``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from appliance.watchdog.quarantine.steps import ORDER, Step
from appliance.watchdog.suspicions import Code
from tests.keepers import Site, running_keeper
from tests.netns import namespace
from tests.service.test_quarantine_tpm import LOADED, Machine, _enrolled
from tests.service.test_watchdog_lease import make_uplink
from tests.tpm import software_tpm

COUNT = 20


def measured(count: int) -> dict[Step, list[float]]:
    """Milliseconds of each step, by step."""
    found: dict[Step, list[float]] = {step: [] for step in ORDER}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "watchdog").mkdir()
        with software_tpm(folder / "tpm") as tpm, namespace() as net:
            make_uplink(net.run)
            net.nft(LOADED)
            site = Site(folder / "site", tpm.tcti)
            with running_keeper(site) as process:
                machine = Machine(folder, net, tpm, site, process)
                trio.run(_enrolled, machine)
                for _ in range(count):
                    code, _ = machine.watchdog(Code.KEXEC_LOADED)
                    assert code == 0
                    for done in machine.journal().done:
                        found[done.step].append(done.took_us / 1000)
                    machine.release()
    return found


def main(count: int) -> None:
    """Measure, and print a table."""
    print(f"{count} quarantines; milliseconds")
    print("| step | median | longest |\n|---|---|---|")
    for step, times in measured(count).items():
        ordered = sorted(times)
        print(f"| `{step}` | {ordered[len(ordered) // 2]:.1f} | {ordered[-1]:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
