# SPDX-License-Identifier: Apache-2.0
"""A box that is switched on again: the disk opens by itself, the box is who it was, and facts cross."""

from __future__ import annotations

from tests.vm.conftest import Bench
from tools.vm.journey import FACTS, ORDERS, beside


def test_a_second_boot_is_like_the_first(bench: Bench) -> None:
    """Same machine id, same PCRs, no enrolment anew, what was stored is there; then a clean power-off."""
    first = bench.golden.report
    hub, box = bench.hub(), bench.box()
    with hub.running(), beside(box, hub, "second") as journey:
        journey.to_ready()
        sent, came = journey.cross("second")
        own = journey.application.own()
        ids = [fact["envelope"]["message_id"] for fact in hub.received()]
        journey.machine.power_off()
    assert (len(sent), len(came)) == (FACTS, ORDERS)
    assert set(first["sent"]) < set(own)
    assert len(own) == len(set(own))
    seen = journey.seen
    assert seen["machine_id"] == first["seen"]["machine_id"] == box.identity.hex
    assert {n: seen["pcrs"][n] for n in ("7", "11", "12", "13", "15")} == {
        n: first["seen"]["pcrs"][n] for n in ("7", "11", "12", "13", "15")
    }
    assert seen["failed_units"] == ""
    assert set(first["sent"]) | sent <= set(ids)
    assert len(ids) == len(set(ids))
    bench.golden.note_control(journey.times["speaking"])
