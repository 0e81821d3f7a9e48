# SPDX-License-Identifier: Apache-2.0
"""What the names of a site configuration stand for: looked up again and again, remembered for a while. Pure.

The firewall lets packets go to addresses, so each name that the site gives without addresses is looked up here. One
answer rarely names all servers behind a name; so an address stays good for an hour after it was last seen, and a
resolver that fails takes nothing away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from appliance.box.found import EACH_AT_MOST, is_dialled
from appliance.site.config import Address

REMEMBERED_S: Final = 3600.0
AGAIN_S: Final = 300.0
FAILED_AGAIN_S: Final = 10.0


@dataclass(slots=True)
class NameBook:
    """Times are seconds of any clock that only grows."""

    names: tuple[str, ...]
    _seen: dict[str, dict[Address, float]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    def found(self, name: str, addresses: Iterable[Address], now: float) -> None:
        """A resolver answered. An answer without any address is a failure."""
        usable = [address for address in addresses if is_dialled(address)]
        if not usable:
            self.failed(name, "no address")
            return
        known = self._seen.setdefault(name, {})
        known |= dict.fromkeys(usable, now)
        newest = sorted(known.items(), key=lambda item: (-item[1], str(item[0])))
        self._seen[name] = {at: seen for at, seen in newest[:EACH_AT_MOST] if now - seen <= REMEMBERED_S}
        self._failed.pop(name, None)

    def failed(self, name: str, why: str) -> None:
        """It did not."""
        self._failed[name] = why

    def resolved(self) -> Mapping[str, tuple[Address, ...]]:
        """What is known, by name; the order is always the same."""
        return {name: tuple(sorted(self._seen[name], key=str)) for name in self.names if self._seen.get(name)}

    @property
    def problems(self) -> Mapping[str, str]:
        """By name, why it could not be looked up last time."""
        return dict(self._failed)

    @property
    def pause_s(self) -> float:
        """Until the next look."""
        return FAILED_AGAIN_S if self._failed else AGAIN_S
