# SPDX-License-Identifier: Apache-2.0
"""An older copy of the box's own ``/var``, put back: it opens, as nothing tells it from the true one.

The box has forgotten what crossed since. Its hub has not: what comes then is told apart, and comes once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm import pace
from tools.vm.application import Application
from tools.vm.disk import copy_sparse
from tools.vm.journey import beside


def test_an_older_var_begins_another_epoch(bench: Bench, control: Callable[[], None]) -> None:
    """The hub keeps what it had, takes each new fact once, and sends again what the box does not know any more."""
    control()
    hub, box = bench.hub(), bench.box()
    older = bench.folder / "older.raw"
    copy_sparse(box.disk.path, older)
    with hub.running():
        with beside(box, hub, "newer") as journey:
            journey.to_ready()
            sent, came = journey.cross("newer")
            journey.machine.power_off()
        had = [fact["envelope"]["message_id"] for fact in hub.received()]
        older.replace(box.disk.path)
        with beside(box, hub, "older") as journey:
            journey.to_ready()
            assert not sent & set(journey.application.own()), "the disk is not the older one"
            again, _ = journey.cross("older")
            wait_received(journey.application, came)
            stays_calm(journey.machine.agent)
            journey.machine.power_off()
        found = hub.received()
    ids = [fact["envelope"]["message_id"] for fact in found]
    assert sorted(ids) == sorted({*had, *again})
    places = {fact["envelope"]["message_id"]: fact["offset"] for fact in found}
    assert {places[one] for one in sent} & {places[one] for one in again}, "a log that was lost goes on under its name"


def wait_received(application: Application, wanted: set[str]) -> None:
    """What the hub had sent to the disk that is gone comes a second time, and is there once."""
    deadline = time.monotonic() + pace.limit(120)
    while not wanted <= set(found := application.received()):
        assert time.monotonic() < deadline, f"{len(wanted - set(found))} facts of the hub did not come again"
        time.sleep(1)
    assert len(found) == len(set(found))
