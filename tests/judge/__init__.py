# SPDX-License-Identifier: Apache-2.0
"""The judge: says from a recorded history alone whether the fact plane kept its promises (I1 to I10).

It imports nothing of the product, so it is an independent oracle. ``README.md`` here documents the history.
"""

from __future__ import annotations

from tests.judge.codec import decode, dump, encode, load
from tests.judge.events import (
    Append,
    Confirm,
    DeadLetter,
    Disaster,
    DisasterKind,
    Event,
    Fault,
    Gap,
    Heal,
    HistoryError,
    Info,
    Link,
    Ok,
    Poison,
    Quiet,
    Read,
    Refused,
    Retention,
    SnapshotBegin,
    SnapshotEnd,
    Topology,
)
from tests.judge.judge import check
from tests.judge.recorder import Recorder, content_digest
from tests.judge.verdict import Counts, Invariant, Verdict, Violation

__all__ = [
    "Append",
    "Confirm",
    "Counts",
    "DeadLetter",
    "Disaster",
    "DisasterKind",
    "Event",
    "Fault",
    "Gap",
    "Heal",
    "HistoryError",
    "Info",
    "Invariant",
    "Link",
    "Ok",
    "Poison",
    "Quiet",
    "Read",
    "Recorder",
    "Refused",
    "Retention",
    "SnapshotBegin",
    "SnapshotEnd",
    "Topology",
    "Verdict",
    "Violation",
    "check",
    "content_digest",
    "decode",
    "dump",
    "encode",
    "load",
]
