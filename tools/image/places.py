# SPDX-License-Identifier: Apache-2.0
"""Where a build reads and writes: everything that is made lies below ``build/image`` of the checkout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

PROFILES: Final = ("cloud", "metal", "test")
"""What images there are. ``test`` is ``cloud`` with an agent in it that obeys its host, and is never released."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one checkout's builds.

    :param build: where this build works. :param given_keys: a folder with keys that were made before, offline.
    :param shared: where tools, keys and downloads are, if not in ``build``.
    """

    checkout: Path
    build: Path
    given_keys: Path | None = None
    shared: Path | None = None

    @classmethod
    def of(cls, checkout: Path, given_keys: Path | None = None) -> Places:
        """Those of a checkout."""
        return cls(checkout, checkout / "build/image", given_keys.resolve() if given_keys else None)

    def apart(self, name: str) -> Places:
        """Those of another build, of a copy of the checkout: it has only tools, keys and downloads in common."""
        folder = self.build / "apart" / name
        return replace(self, checkout=folder / "checkout", build=folder / "image", shared=self._common)

    @property
    def seen(self) -> tuple[Path, ...]:
        """Folders that the tools must see at the same path; none of them lies in another."""
        wanted = {self.checkout, self.build, self._common, self.keys}
        return tuple(sorted(path for path in wanted if not any(other in path.parents for other in wanted)))

    @property
    def _common(self) -> Path:
        return self.shared or self.build

    @property
    def tools(self) -> Path:
        """The Debian 13 root that everything is built in."""
        return self._common / "tools"

    @property
    def keys(self) -> Path:
        """Signing keys; made for development unless others are given."""
        return self.given_keys or self._common / "keys"

    @property
    def cache(self) -> Path:
        """Downloaded packages."""
        return self._common / "cache"

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
