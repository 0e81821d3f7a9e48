# SPDX-License-Identifier: Apache-2.0
"""What can be learned of a firmware, wherever it comes from: the contract suite of :class:`FirmwareFacts`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.firmware.efi import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from appliance.firmware.facts import FirmwareFacts, Machine, Tpm
from tests.boxtree import NOW, MadeBox

Looks = Callable[[MadeBox], FirmwareFacts]


class FirmwareFactsContract:
    """Subclass it with a fixture ``look``, which gives the facts of a made-up box."""

    def test_variables(self, look: Looks) -> None:
        """Content without attributes, by name and name space; an empty one is not a missing one."""
        box = MadeBox()
        box.set("SecureBoot", b"\1")
        box.set("Empty", b"")
        facts = look(box)
        assert facts.booted_by_uefi()
        assert facts.variable("SecureBoot", GLOBAL_VARIABLE) == b"\1"
        assert facts.variable("Empty", GLOBAL_VARIABLE) == b""
        assert facts.variable("SecureBoot", IMAGE_SECURITY_DATABASE) is None
        assert facts.variable("secureboot", GLOBAL_VARIABLE) is None

    def test_no_variables_at_all_is_not_their_absence(self, look: Looks) -> None:
        """Started the old way, or the file system is not mounted: nothing may be concluded."""
        for box in (MadeBox(uefi=False), MadeBox()):
            facts = look(box)
            assert facts.booted_by_uefi() is box.uefi
            with pytest.raises(OSError, match=r"."):
                facts.variable("SecureBoot", GLOBAL_VARIABLE)

    def test_the_machine(self, look: Looks) -> None:
        """What it says of itself."""
        assert look(MadeBox()).machine() == Machine("Acme", "Gateway 7", "Maker 1.2")

    def test_the_tpm(self, look: Looks) -> None:
        """Version, banks and PCR 7, each as the kernel shows it."""
        value = bytes(range(32))
        assert look(MadeBox(tpm_major=None)).tpm() is None
        assert look(MadeBox(tpm_major="1", banks=())).tpm() == Tpm("1.2", frozenset(), None)
        assert look(MadeBox(banks=("sha1",), pcr7=value)).tpm() == Tpm("2.0", frozenset({"sha1"}), None)
        both = look(MadeBox(banks=("sha256", "sha384"), pcr7=value)).tpm()
        assert both == Tpm("2.0", frozenset({"sha256", "sha384"}), value)

    @pytest.mark.parametrize(("bits", "said"), [(None, None), (0, False), (1, True), (2, None), (3, None)])
    def test_the_setup_password(self, look: Looks, bits: int | None, said: bool | None) -> None:
        """Firmware may say that it does not know."""
        assert look(MadeBox(password=bits)).setup_password() is said

    def test_watchdogs(self, look: Looks) -> None:
        """One that is only software hangs with the kernel."""
        assert look(MadeBox(watchdogs=())).watchdogs() == ()
        assert look(MadeBox(watchdogs=("Software Watchdog", "iTCO_wdt"))).watchdogs() == ("iTCO_wdt",)

    def test_wake_on_lan(self, look: Looks) -> None:
        """Of each adapter; virtual interfaces are none, and one that cannot wake does not."""
        adapters = {"eno1": True, "eno2": False, "eno3": None}
        facts = look(MadeBox(adapters=adapters, virtual=("lo", "vlan7")))
        assert facts.wake_on_lan() == {"eno1": True, "eno2": False, "eno3": False}

    def test_processor_and_devices(self, look: Looks) -> None:
        """IOMMUs are counted; threads are on, off or unknown."""
        assert look(MadeBox(iommus=("dmar0", "dmar1"))).iommus() == 2
        assert look(MadeBox(iommus=())).iommus() == 0
        said = [look(MadeBox(smt=smt)).hyper_threading() for smt in (("on", "1"), ("off", "0"), None)]
        assert said == [True, False, None]
        assert look(MadeBox(smt=("notsupported", "0"))).hyper_threading() is None

    def test_the_clock(self, look: Looks) -> None:
        """How far it is ahead."""
        assert look(MadeBox(clock=int(NOW) + 3600)).clock_offset_s() == 3600
        assert look(MadeBox(clock=None)).clock_offset_s() is None
