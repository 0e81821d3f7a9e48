# SPDX-License-Identifier: Apache-2.0
"""What audit may record or lose, and what the watchdog must then say: one table, played by a fake.

The words are *recorded*: as the documentation of IPE shows them (Linux, ``Documentation/admin-guide/LSM/ipe.rst``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from appliance.watchdog.probes.audit import IPE_ACCESS, AuditStatus
from appliance.watchdog.suspicions import Code
from tests.fakes.audit import FakeAudit

LOCKED: Final = AuditStatus(2, 3, 2)
"""As the image locks it; a few records were lost while the machine started."""
RULES: Final = "-D\n-b 1024\n-a always,exit -S kexec_load\n-a always,exit -S init_module\n-e 2\n"
ANONYMOUS: Final = (
    b"audit(1653364735.161:64): ipe_op=EXECUTE ipe_hook=MMAP enforcing=1 pid=2472 "
    b'comm="python" path=? dev=? ino=? rule="DEFAULT op=EXECUTE action=DENY"'
)


def refusal(path: str, comm: str, hook: str = "BPRM_CHECK") -> bytes:
    """A denial of IPE."""
    text = f'ipe_op=EXECUTE ipe_hook={hook} enforcing=1 pid=2241 comm="{comm}" path="{path}" dev="dm-1" ino=14549020'
    return f'audit(1653364370.067:61): {text} rule="DEFAULT op=EXECUTE action=DENY"'.encode()


@dataclass(frozen=True)
class AuditTampering:
    """One thing that happens."""

    name: str
    code: Code
    inject: Callable[[FakeAudit], None]


def _says(**values: int) -> Callable[[FakeAudit], None]:
    def inject(audit: FakeAudit) -> None:
        audit.now = replace(audit.now, **values)

    return inject


def _records(text: bytes) -> Callable[[FakeAudit], None]:
    return lambda audit: audit.record(IPE_ACCESS, text)


def _overflows(audit: FakeAudit) -> None:
    audit.missed = True


_REFUSED: Final = Code.EXECUTABLE_REFUSED
AUDIT_TAMPERINGS: Final = (
    AuditTampering("program", _REFUSED, _records(refusal("/var/lib/bsfg/facts/x", "nats-server"))),
    AuditTampering("library", _REFUSED, _records(refusal("/run/lib.so", "python3", "MMAP"))),
    AuditTampering("made_executable_later", _REFUSED, _records(refusal("/run/x", "python3", "MPROTECT"))),
    AuditTampering("switched_off", Code.AUDIT_OFF, _says(enabled=0)),
    AuditTampering("unlocked", Code.AUDIT_OFF, _says(enabled=1)),
    AuditTampering("rules_removed", Code.AUDIT_OFF, _says(rules=1)),
    AuditTampering("records_lost", Code.AUDIT_LOST, _says(lost=90)),
    AuditTampering("records_missed", Code.AUDIT_LOST, _overflows),
)
