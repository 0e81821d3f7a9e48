# SPDX-License-Identifier: Apache-2.0
"""The probe of the firewall, attacked: the image's rules in this kernel; see ``tests/tampering_network.py``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.watchdog.nft import Nftables, NftLease
from appliance.watchdog.probes.firewall import AGAIN_S, FirewallPlaces, FirewallProbe, tables
from appliance.watchdog.probing import Probe
from tests.tampering_network import (
    FIREWALL_TAMPERINGS,
    SITE,
    FirewallTampering,
    Net,
    firewall_probe,
    look,
    network,
    told,
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A network with the image's firewall."""
    with network(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture(scope="module")
def probe(net: Net) -> Iterator[Probe]:
    """One probe for all tests, as one runs for months."""
    with firewall_probe(net) as made:
        yield made


@pytest.fixture
def clean(net: Net, probe: Probe) -> Iterator[None]:
    """Before and after a test all is well."""
    look(net, probe)
    reading = look(net, probe)
    assert (reading.seen, reading.blind) == ((), ""), reading
    yield
    net.nft("flush ruleset")
    net.load()
    reading = look(net, probe)
    assert (reading.seen, reading.blind) == ((), ""), reading


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("tampering", FIREWALL_TAMPERINGS, ids=lambda each: each.name)
def test_each_change_is_seen_at_once(net: Net, probe: Probe, tampering: FirewallTampering) -> None:
    """The kernel tells of it, and it is seen under its code and no other."""
    assert not told(net, probe, 0.0)
    net.nft(tampering.text)
    assert told(net, probe)
    for _ in range(2):
        reading = look(net, probe)
        assert {seen.code for seen in reading.seen} == {tampering.code}, reading
        assert not reading.blind
        assert "(last changed by nft, pid" in reading.seen[0].detail


@pytest.mark.usefixtures("clean")
def test_what_a_box_does_itself_is_no_change(net: Net, probe: Probe) -> None:
    """The lease, the dark set, sets filled anew by their scripts, callers; a device that goes and comes."""
    lease = NftLease()

    def well(where: str) -> None:
        reading = look(net, probe)
        assert (reading.seen, reading.blind) == ((), ""), (where, reading)

    net.within(lease.renew)
    well("leased")
    net.within(lease.close)
    well("closed")
    net.nft('add element inet bsfg dark { "uplink0" }\nadd element netdev bsfg dark { "uplink0" }')
    well("dark")
    net.nft("add element inet bsfg callers4 { 10.0.0.7 timeout 1m }")
    well("a caller")
    names = SITE.replace("192.0.2.1 . 4222", "192.0.2.9 . 4222")
    (net.root / "names-sets.nft").write_text(names)
    net.nft(names)
    well("names were looked up")
    net.nft(SITE)
    (net.root / "names-sets.nft").unlink()
    well("and forgotten")
    net.run("ip", "link", "delete", "uplink0")
    well("the device is gone; older kernels take its chain away as well")
    net.plug("uplink0")
    net.judge("uplink0")
    well("and back")


@pytest.mark.usefixtures("clean")
def test_only_a_script_that_was_replaced_is_waited_for(net: Net, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written down before it is run; the sets have what the last one put there. Anything else is told at once."""
    script, waits = net.root / "names-sets.nft", list[float]()

    def names(address: str) -> str:
        return SITE.replace("192.0.2.1 . 4222", f"{address} . 4222")

    def meanwhile(seconds: float) -> None:
        waits.append(seconds)
        subprocess.run(["nft", "-f", script], check=True)

    clock = SimpleNamespace(sleep=meanwhile, monotonic=time.monotonic)
    monkeypatch.setattr("appliance.watchdog.probes.firewall.time", clock)
    try:
        script.write_text(names("192.0.2.8"))
        net.nft(names("192.0.2.8"))
        assert look(net, probe).seen == ()
        script.unlink()
        script.write_text(names("192.0.2.9"))
        net.nft("add element inet bsfg callers4 { 10.0.0.8 timeout 1m }")  # so that it looks
        assert look(net, probe).seen == ()
        assert waits == [AGAIN_S]
        net.nft("add element inet bsfg hub4 { 192.0.2.8 . 4222 }")
        assert [each.code for each in look(net, probe).seen] == ["firewall_changed"]
        assert waits == [AGAIN_S], "told at once"
    finally:
        script.unlink()


@pytest.mark.usefixtures("clean")
def test_the_baseline_is_the_images(net: Net) -> None:
    """A watchdog that starts after the attack finds it all the same, and leaves no second table behind."""
    net.nft("insert rule inet bsfg output accept")
    with firewall_probe(net) as late:
        reading = look(net, late)
        assert [seen.code for seen in reading.seen] == ["firewall_changed"], reading
        listed: str = net.within(lambda: Nftables().run("list tables"))
        assert listed.split() == ["table", "inet", "bsfg", "table", "netdev", "bsfg"]


def test_listings_of_newer_programs() -> None:
    """Tables that a process owns, and those of iptables, have a remark; what is no listing is refused."""
    text = "# Warning: table ip nat is managed by iptables-nft, do not touch!\ntable ip nat { # progname x\n}\n"
    assert tables(text) == {"ip nat": {"": ""}}
    text = "table inet bsfg {\n\tflags dormant\n\n\tchain a {\n\t\taccept\n\t}\n}\n"
    assert tables(text) == {"inet bsfg": {"": "flags dormant\n", "chain a": "accept\n"}}
    with pytest.raises(ValueError, match="another form"):
        tables("Error: something\n")


@pytest.mark.usefixtures("clean")
def test_without_the_images_file_it_is_blind(net: Net, tmp_path: Path) -> None:
    """And says so; with rules that this kernel does not take too. Nothing is held against the box."""
    for text in (None, "table inet bsfg {\n    chain input { nonsense }\n}\n"):
        rules = tmp_path / "firewall.nft"
        if text is not None:
            rules.write_text(text)
        blind: FirewallProbe = net.within(lambda: FirewallProbe(FirewallPlaces(rules)))  # noqa: B023 - called at once
        reading = look(net, blind)
        assert (reading.seen, bool(reading.blind)) == ((), True)
        net.within(blind.close)
