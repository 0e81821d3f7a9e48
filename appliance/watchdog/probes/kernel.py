# SPDX-License-Identifier: Apache-2.0
"""Probe ``kernel``: its protections are those that the image sets, and nothing was added to it.

Compared are: lockdown, the taint flags, the loaded modules (their names; that they are signed is the kernel's own
business), whether another kernel lies ready, each setting of the image's own ``sysctl.d``, and the execution policy.
All of it is read each second: none of these files says when it changes.

It needs no privilege, but the box's own network namespace (settings of the network are of a namespace), and so runs in
the watchdog. A few settings only root may read (:data:`ROOT_ONLY`); those are not compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from appliance.watchdog.probes.places import Places, View, text_of
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

LOCKDOWN: Final = "integrity"
SHOWN_MODULES: Final = "bsfg/modules"
"""Below ``/run``: where its unit shows the image's folder of modules, which systemd hides from services."""
SYSCTL: Final = "lib/sysctl.d/60-bsfg.conf"
IPE_POLICY: Final = "appliance"
TAINTS: Final[Mapping[int, str]] = {
    0: "a module that is not free software",
    1: "a module was loaded by force",
    3: "a module was removed by force",
    6: "a program asked for the flag",
    8: "an ACPI table was replaced",
    10: "a driver from staging",
    12: "a module that was built elsewhere",
    13: "a module without a signature",
    15: "the kernel was patched while it ran",
    18: "a test was run in the kernel",
    19: "the firmware of a device was changed",
}
"""Flags (kernel documentation, admin-guide/tainted-kernels) that only interference sets."""
WARNINGS: Final[Mapping[int, str]] = {
    2: "the processor is out of its specification",
    4: "a machine check",
    5: "a bad memory page",
    7: "an oops",
    9: "a warning",
    14: "a processor hung",
}
"""Flags that a defect sets. The others (11, 16, 17) say nothing about a running box."""
ROOT_ONLY: Final = frozenset(
    {
        "fs.protected_fifos",
        "fs.protected_hardlinks",
        "fs.protected_regular",
        "fs.protected_symlinks",
        "net.core.bpf_jit_harden",
        "vm.mmap_min_addr",
        "vm.mmap_rnd_bits",
    }
)
"""Settings that the kernel shows to root alone, whatever privilege somebody else has."""
_SHOWN: Final = 8


class KernelProbe:
    """See the module. What the image says is read once: the image does not change while it runs."""

    name = ProbeName.KERNEL
    period_s = 1.0

    def __init__(self, places: Places) -> None:
        self._places = places
        self._settings: dict[str, str] | None = None
        self._modules: frozenset[str] | None = None
        self._policy: bytes | None = None

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        for part in (self._lockdown, self._taint, self._loaded, self._kexec, self._sysctl, self._ipe):
            with view.part(part.__name__.strip("_")):
                part(view)
        return view.reading()

    def _lockdown(self, view: View) -> None:
        text = text_of(self._places.sys / "kernel/security/lockdown")
        level = text.partition("[")[2].partition("]")[0]
        view.note("lockdown", level)
        if level not in {LOCKDOWN, "confidentiality"}:
            view.see(Code.LOCKDOWN_LOWERED, f"{level or text}; the image sets {LOCKDOWN}")

    def _taint(self, view: View) -> None:
        flags = int(text_of(self._places.proc / "sys/kernel/tainted"))
        view.note("tainted", flags)
        for code, meanings in ((Code.KERNEL_TAINTED, TAINTS), (Code.KERNEL_WARNED, WARNINGS)):
            found = [f"{text} ({number})" for number, text in meanings.items() if flags & (1 << number)]
            if found:
                view.see(code, "; ".join(found))

    def _loaded(self, view: View) -> None:
        if self._modules is None:
            release = text_of(self._places.proc / "sys/kernel/osrelease")
            folder = self._places.usr / "lib/modules" / release
            self._modules = modules_of(folder, self._places.run / SHOWN_MODULES / release)
        text = (self._places.proc / "modules").read_text("ascii")
        loaded = [line.split(" ", 1)[0] for line in text.splitlines() if line]
        view.note("modules", len(loaded))
        foreign = [name for name in loaded if name not in self._modules]
        if foreign:
            view.see(Code.MODULE_FOREIGN, ", ".join(foreign[:_SHOWN]))

    def _kexec(self, view: View) -> None:
        for name in ("kexec_loaded", "kexec_crash_loaded"):
            try:
                loaded = text_of(self._places.sys / "kernel" / name)
            except FileNotFoundError:
                continue  # a kernel that cannot do it at all
            view.note(name, loaded)
            if loaded != "0":
                view.see(Code.KEXEC_LOADED, name)

    def _sysctl(self, view: View) -> None:
        if self._settings is None:
            self._settings = settings_of(self._places.usr / SYSCTL)
        wrong, unseen = [], []
        for name, wanted in self._settings.items():
            try:
                found = " ".join(text_of(self._places.proc / "sys" / name.replace(".", "/")).split())
            except FileNotFoundError:  # this kernel has no such setting; nobody can take one away
                unseen.append(name)
                continue
            except PermissionError:
                if name not in ROOT_ONLY:
                    raise
                unseen.append(name)
                continue
            if found != wanted:
                wrong.append(f"{name} is {found}, not {wanted}")
        view.note("settings", len(self._settings) - len(unseen))
        if unseen:
            view.note("settings_unseen", " ".join(unseen))
        if wrong:
            view.see(Code.SYSCTL_CHANGED, "; ".join(wrong[:_SHOWN]))

    def _ipe(self, view: View) -> None:
        at = self._places.sys / "kernel/security/ipe"
        if not at.is_dir():
            view.see(Code.IPE_OFF, "the kernel has no execution policy at all")
            return
        if text_of(at / "enforce") != "1":
            view.see(Code.IPE_OFF, "it only watches (enforce is 0)")
        policies = sorted(each.name for each in (at / "policies").iterdir())
        if policies != [IPE_POLICY]:
            view.see(Code.IPE_POLICY_CHANGED, f"there are {', '.join(policies) or 'none'}")
            if IPE_POLICY not in policies:
                return
        policy = at / "policies" / IPE_POLICY
        if text_of(policy / "active") != "1":
            view.see(Code.IPE_POLICY_CHANGED, f"{IPE_POLICY} is not in force")
        if self._policy is None:
            self._policy = (self._places.usr / f"lib/ipe/{IPE_POLICY}.p7b").read_bytes()
        text = (policy / "policy").read_bytes().strip(b"\0\n ")
        if not text or text not in self._policy:
            view.see(Code.IPE_POLICY_CHANGED, f"{IPE_POLICY} is not the image's")

    def descriptor(self) -> int | None:
        """Nothing here says when it changes."""
        return None

    def close(self) -> None:
        """It holds nothing."""


def modules_of(*folders: Path) -> frozenset[str]:
    """Names of the modules that lie in the first folder that has some. :raises OSError: there are none."""
    for folder in folders:
        found = {
            name.split(".", 1)[0].replace("-", "_")
            for _, _, files in os.walk(folder)
            for name in files
            if ".ko" in name
        }
        if found:
            return frozenset(found)
    raise FileNotFoundError(f"no modules in {folders[0]}")


def settings_of(path: Path) -> dict[str, str]:
    """What a file of ``sysctl.d`` sets. :raises OSError: it cannot be read."""
    found = {}
    for line in path.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found[name.strip().removeprefix("-")] = " ".join(value.split())
    return found
