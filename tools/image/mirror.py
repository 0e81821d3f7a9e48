# SPDX-License-Identifier: Apache-2.0
"""Where Debian's packages come from: an environment variable, or what the machine's own apt uses."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError

VARIABLE: Final = "BSFG_DEBIAN_MIRROR"
SUITE: Final = "trixie"
BROKER_SUITE: Final = "forky"
"""The suite that has a nats-server new enough; nothing else is taken from it (see :func:`preferences`)."""
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The base address of a Debian mirror, and that of its security archive."""

    main: str
    security: str

    @classmethod
    def find(cls) -> Mirror:
        """:raises BuildError: neither the variable nor apt names one."""
        main = os.environ.get(VARIABLE, "").rstrip("/") or _from_apt().rstrip("/")
        return cls(main, re.sub(r"/debian$", "", main) + "/debian-security")

    def lines(self, components: str = "main") -> str:
        """One-line sources of the suite that the image is made of."""
        return "".join(
            f"deb {site} {suite} {components}\n"
            for site, suite in (
                (self.main, SUITE),
                (self.main, f"{SUITE}-updates"),
                (self.security, f"{SUITE}-security"),
            )
        )

    def sources(self, components: str) -> str:
        """Deb822 sources for mkosi, the broker's suite included."""
        entries = (
            (self.main, f"{SUITE} {SUITE}-updates", components),
            (self.security, f"{SUITE}-security", components),
            (self.main, BROKER_SUITE, "main"),
        )
        return "\n".join(
            f"Types: deb\nURIs: {site}\nSuites: {suites}\nComponents: {parts}\nSigned-By: {_KEYRING}\n"
            for site, suites, parts in entries
        )


def preferences() -> str:
    """Nothing comes from the broker's suite but the broker."""
    return (
        f"Package: *\nPin: release n={BROKER_SUITE}\nPin-Priority: -1\n\n"
        f"Package: nats-server\nPin: release n={BROKER_SUITE}\nPin-Priority: 990\n"
    )


def apt_settings() -> str:
    """What the machine's apt was told and a build needs to know: whether dates of package lists are to be believed."""
    shown = subprocess.run(["apt-config", "dump", "Acquire::Check-Date"], capture_output=True, text=True, check=False)
    return shown.stdout


def _from_apt() -> str:
    codename = _codename()
    command = ["apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)", "Created-By: Packages"]
    try:
        rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError("apt does not say where Debian's packages come from", f"set {VARIABLE}") from error
    for row in rows:
        site, _, release = row.partition("|")
        if release == codename:
            return site
    raise BuildError(f"apt has no source for {codename}", f"run 'apt-get update', or set {VARIABLE}")


def _codename() -> str:
    found = re.search(r"^VERSION_CODENAME=(\S+)$", Path("/etc/os-release").read_text("utf-8"), re.MULTILINE)
    if not found:
        raise BuildError("this machine's Debian release is unknown", f"set {VARIABLE}")
    return found[1]
