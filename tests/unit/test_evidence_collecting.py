# SPDX-License-Identifier: Apache-2.0
"""Gathering evidence: no source holds it up, too much is cut, and what the ladder calls keeps what was sealed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.watchdog.evidence import collecting
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, Bundle, JournalLine, SourceState, digest_of
from appliance.watchdog.evidence.journal import Window, read_journal
from appliance.watchdog.evidence.sources import Places, read_digests, read_firewall, read_image, read_logs, sources_of
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.taking import KeptEvidence
from appliance.watchdog.evidence.verifying import verify
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import ProbeName
from tests.evidence import SimulatedQuarantine, a_case, some_sources

LISTED = """table inet bsfg {
\tset hub4 {
\t\ttype ipv4_addr . inet_service
\t\telements = { 10.0.0.1 . 443 }
\t}

\tset lease {
\t\ttype ifname
\t\tflags timeout
\t\telements = { "uplink0" timeout 5s expires 3s }
\t}

\tset dark {
\t\ttype ifname
\t}

\tchain leased {
\t\toifname @lease meta mark set 0x00000001 counter packets 10 bytes 1000 accept comment "HRD-NET-032"
\t\tcounter packets 3 bytes 30 drop comment "HRD-NET-033"
\t\tcounter packets 4 bytes 40 drop comment "HRD-NET-033"
\t\tcounter packets 4 bytes 40 drop comment "password=hunter2"
\t}
}
"""


async def test_no_source_holds_it_up() -> None:
    """One hangs in a thread, one raises, one is no good: the evidence comes in a moment and names them."""
    go_on = threading.Event()

    def hanging() -> dict[str, str]:
        go_on.wait(20)
        return {}

    async def silent() -> Window:
        await trio.sleep_forever()
        raise AssertionError

    def broken() -> tuple[Reading, ...]:
        raise RuntimeError("password=hunter2 is wrong")

    world, began = SimulatedQuarantine(), time.monotonic()
    bundle, seal = await world.take(
        a_case(), some_sources(image=hanging, journal=silent, readings=broken), source_s=0.1
    )
    go_on.set()
    assert time.monotonic() - began < 3
    notes = {note.name: note for note in bundle.sources}
    assert notes["image"].detail == "took longer than 0.1 s"
    assert notes["journal"].state is SourceState.MISSING
    assert "RuntimeError" in notes["readings"].detail
    assert b"hunter2" not in bundle.render()
    assert notes["firewall"].state is SourceState.PRESENT
    verify(bundle.render(), seal.render(), world.enrolled)


async def test_without_the_tpm_there_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises in time, to be tried again."""
    monkeypatch.setattr(collecting, "KEEPER_S", 0.05)
    with pytest.raises(UnavailableError, match="keeper_unavailable"):
        await SimulatedQuarantine(hang=True).take(a_case())


async def test_too_much_is_cut_to_its_size() -> None:
    """The newest entries of the journal stay; logs of the boot that are too long do not come at all."""
    lines = tuple(JournalLine(at, "kernel", 4, "x" * 400) for at in range(10_000))

    async def flood() -> Window:
        return Window(lines, False, 0)

    world = SimulatedQuarantine(boot_log=b"x" * (FIRMWARE_LOG_BYTES + 1))
    bundle, _ = await world.take(a_case(), some_sources(journal=flood))
    text = bundle.render()
    assert len(text) <= BUNDLE_BYTES
    assert Bundle.parse(text) == bundle
    assert bundle.journal[-1] == lines[-1]
    notes = {note.name: note.state for note in bundle.sources}
    assert (notes["journal"], notes["firmware_log"]) == (SourceState.CUT, SourceState.MISSING)


async def test_the_ladder_gets_the_digest_of_what_was_kept(tmp_path: Path) -> None:
    """A second call keeps a second bundle, which names the first one."""
    world, store = SimulatedQuarantine(), EvidenceStore(tmp_path / "evidence")
    steps: list[str] = []
    keeper: Any = world
    taker, case = KeptEvidence(keeper, some_sources(), store, steps.append), a_case()
    latched = world.latch(case.digest())
    first = await taker.take(case, latched)
    second = await taker.take(case, latched)
    assert steps == ["collected", "kept"] * 2
    (one, seal), (other, _) = (each.read() for each in store.all())
    assert (digest_of(one), digest_of(other)) == (first, second)
    assert (Bundle.parse(one).number, Bundle.parse(one).previous) == (1, "")
    assert (Bundle.parse(other).number, Bundle.parse(other).previous) == (2, first.hex())
    assert verify(one, seal, world.enrolled).digest == first


def test_the_firewall_is_counted_by_rule() -> None:
    """By chain and control; nothing of its addresses, and no comment that is none of ours."""
    found = read_firewall(lambda command: LISTED if "inet" in command else "")
    assert {name: (each.packets, each.bytes) for name, each in found.items()} == {
        "inet:leased:HRD-NET-032": (10, 1000),
        "inet:leased:HRD-NET-033": (7, 70),
        "set:inet:lease": (1, 0),
        "set:inet:dark": (0, 0),
    }


def test_files_say_what_they_should_and_no_more(tmp_path: Path) -> None:
    """The image's version and root hash; digests; a file that is absent is said to be."""
    places = Places(tmp_path)
    places.os_release.parent.mkdir(parents=True)
    places.command_line.parent.mkdir(parents=True)
    places.os_release.write_text('NAME="x"\nIMAGE_ID=bsfg\nIMAGE_VERSION="1.2.3"\nVERSION_ID=13\n')
    places.command_line.write_text(f"quiet roothash={'ab' * 32} roothash=short secret=1\n")
    assert read_image(places) == {
        "image_id": "bsfg",
        "image_version": "1.2.3",
        "version_id": "13",
        "roothash": "ab" * 32,
    }
    site = places.files["/var/lib/bsfg/site/site.toml"]
    site.parent.mkdir(parents=True)
    site.write_bytes(b"site")
    found = read_digests(places.files)
    assert found["/var/lib/bsfg/site/site.toml"] == digest_of(b"site").hex()
    assert found["/run/bsfg/config/node.toml"] == "absent"
    with pytest.raises(UnavailableError, match="not_ready"):
        read_logs(places.agent)


async def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """No program, one that fails, one that never ends; then one that prints (**simulated**: a script)."""
    with pytest.raises(UnavailableError, match="bad_environment"):
        await read_journal((str(tmp_path / "none"),))
    with pytest.raises(UnavailableError, match="ended with 3"):
        await read_journal(("sh", "-c", "exit 3"))
    with trio.move_on_after(0.2) as scope:
        await read_journal(("sh", "-c", "exec sleep 60"))
    assert scope.cancelled_caught
    line = '{"MESSAGE":"m","_SYSTEMD_UNIT":"bsfg-agent.service","__REALTIME_TIMESTAMP":"5"}'
    window = await read_journal(("sh", "-c", f"echo '{line}'"))
    assert [each.text for each in window.lines] == ["m"]
    endless = await read_journal(("sh", "-c", f"while echo '{line}'; do :; done"))
    assert endless.cut


async def test_the_sources_of_this_machine_are_read() -> None:
    """The real readers, whatever this machine has: they end, and say what they miss."""
    world = SimulatedQuarantine()
    readings = (Reading(ProbeName.KERNEL),)
    bundle, seal = await world.take(a_case(), sources_of(Places(), lambda: readings))
    assert {note.name for note in bundle.sources} == {
        *("boot_id", "files", "firewall", "firmware_log", "image", "journal", "logs", "readings", "runtime_log")
    }
    assert bundle.readings == readings
    assert len(bundle.boot_id) == 32
    verify(bundle.render(), seal.render(), world.enrolled)
