# SPDX-License-Identifier: Apache-2.0
"""Our programs under the rule that memory which was written is never run (HRD-SBX-011), as the kernel enforces it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What systemd's MemoryDenyWriteExecute= asks of the kernel (prctl PR_SET_MDWE); what is started inherits it.
UNDER_THE_RULE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
MAP = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
# The keeper with a TPM (cffi), nats-server (Go), the watchdog's lease (libnftables by ctypes), the sensor (inotify).
PROGRAMS = (
    "tests/service/test_keeper_contract.py::TestKeeperProcess::test_a_latch_holds_until_two_operators_release_it",
    "tests/service/test_brokers_facts.py",
    "tests/service/test_watchdog_lease.py::test_it_tells_systemd_that_both_its_loops_live",
    "tests/unit/test_watchdog_probes.py::test_the_sensor_of_a_box_is_one_process",
)


def under_the_rule(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command under the rule; skipped where the kernel does not know it (before 6.3)."""
    outcome = subprocess.run(
        [sys.executable, "-c", UNDER_THE_RULE, *command], cwd=root, capture_output=True, text=True, check=False
    )
    if outcome.returncode == 77:
        pytest.skip("this kernel has no such rule")
    return outcome


def test_the_rule_bites(root: Path) -> None:
    """Memory that can be written and run: had without the rule, refused under it."""
    assert not subprocess.run([sys.executable, "-c", MAP], check=False, capture_output=True).returncode
    refused = under_the_rule(root, sys.executable, "-c", MAP)
    assert refused.returncode
    assert "Permission denied" in refused.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_our_programs_do_without(root: Path, program: str) -> None:
    """Their own tests pass under it."""
    outcome = under_the_rule(root, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", program)
    assert not outcome.returncode, outcome.stdout[-3000:]
    assert " passed" in outcome.stdout
