# SPDX-License-Identifier: Apache-2.0
"""Where a build reads and writes: everything that is made lies below ``build/image`` of the checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROFILES: Final = ("cloud", "metal", "test")
"""What images there are. ``test`` is ``cloud`` with an agent in it that obeys its host, and is never released."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one checkout's builds."""

    checkout: Path
    build: Path

    @classmethod
    def of(cls, checkout: Path) -> Places:
        """Those of a checkout."""
        return cls(checkout, checkout / "build/image")

    @property
    def tools(self) -> Path:
        """The Debian 13 root that everything is built in."""
        return self.build / "tools"

    @property
    def keys(self) -> Path:
        """Signing keys; made for development unless they were put there."""
        return self.build / "keys"

    @property
    def cache(self) -> Path:
        """Downloaded packages."""
        return self.build / "cache"

    def layers(self, profile: str) -> Path:
        """Installed packages, kept by an incremental build for the next one."""
        return self.build / "layers" / profile

    def release(self, profile: str) -> Path:
        """What is published."""
        return self.build / "release" / profile

    def work(self, profile: str) -> Path:
        """What is in the making."""
        return self.build / "work" / profile

    def out(self, profile: str) -> Path:
        """What came out."""
        return self.build / "out" / profile
