# SPDX-License-Identifier: Apache-2.0
"""An older copy of the box's own ``/var``, put back: it opens, as nothing tells it from the true one.

The box has forgotten what crossed since. Its hub has not: what comes then is told apart, and comes once.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
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
            application = journey.application
            journey.until(lambda: came <= set(application.received()), "what the hub had sent comes again", 120)
            assert len(orders := application.received()) == len(set(orders))
            stays_calm(journey.machine.agent)
            journey.machine.power_off()
        found = hub.received()
    ids = [fact["envelope"]["message_id"] for fact in found]
    assert sorted(ids) == sorted({*had, *again})
    places = {fact["envelope"]["message_id"]: fact["offset"] for fact in found}
    assert {places[one] for one in sent} & {places[one] for one in again}, "a log that was lost goes on under its name"
