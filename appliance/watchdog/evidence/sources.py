# SPDX-License-Identifier: Apache-2.0
"""Where evidence comes from: a list of sources, each read with the watchdog's own rights and none of them secret.

A source is a few lines that say exactly which values are taken; what is not named here is not in any bundle. Each may
fail or be slow: whoever gathers (:mod:`appliance.watchdog.evidence.collecting`) gives it its time, and goes on.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.node.status import StatusDocument
from appliance.watchdog.evidence.bundle import Counted, LogHead
from appliance.watchdog.evidence.journal import Window, read_journal
from appliance.watchdog.nft import Nftables
from appliance.watchdog.probing import Reading
from appliance.watchdog.secrecy import clean_foreign

FILE_BYTES: Final = 1024 * 1024
"""No file that is looked at has more."""
_RELEASE: Final = frozenset({"ID", "VERSION_ID", "IMAGE_ID", "IMAGE_VERSION", "BUILD_ID"})
_WORD: Final = re.compile(r"[A-Za-z0-9._:+~-]{1,64}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,95}")
_HEX: Final = re.compile(r"[0-9a-f]{0,64}")
_ROOT_HASH: Final = re.compile(r"(?:^|\s)(roothash|usrhash)=([0-9a-f]{64})(?=\s|$)")
_CHAIN: Final = re.compile(r"\s*chain (\S+) \{")
_RULE: Final = re.compile(r"counter packets (\d{1,20}) bytes (\d{1,20})\b.*?comment \"(HRD-[A-Z]{2,4}-\d{3})\"")
_SET: Final = re.compile(r"set (lease|dark) \{(.*?)\n\t\}", re.DOTALL)
_ELEMENTS: Final = re.compile(r"elements = \{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Places:
    """The files that are looked at; tests have their own. :param root: ``/`` on a box."""

    root: Path = Path("/")

    @property
    def os_release(self) -> Path:
        """Name and version of the image."""
        return self.root / "usr/lib/os-release"

    @property
    def command_line(self) -> Path:
        """The kernel's command line, of which the root hash is taken and nothing else."""
        return self.root / "proc/cmdline"

    @property
    def boot_id(self) -> Path:
        """The kernel's random id of this boot."""
        return self.root / "proc/sys/kernel/random/boot_id"

    @property
    def agent(self) -> Path:
        """The agent's status document."""
        return self.root / "run/bsfg/status/agent.json"

    @property
    def files(self) -> Mapping[str, Path]:
        """Of which a digest is taken; all of them are public, or no secret is in them."""
        names = (
            "var/lib/bsfg/site/site.toml",
            *(f"var/lib/bsfg/pki/{name}.json" for name in ("denied", "enrolled-box", "measurements")),
            "var/lib/bsfg/pki/hub-ca.pem",
            *(f"run/bsfg/config/{name}.toml" for name in ("keeper", "node", "site")),
            *(f"run/bsfg/config/{name}.conf" for name in ("control", "facts")),
            *(f"run/bsfg/config/{name}" for name in ("listeners.json", "operators.pem", "sets.nft")),
            *(f"usr/lib/bsfg/{name}" for name in ("firewall.nft", "image-key.pem", "image.json")),
        )
        return {f"/{name}": self.root / name for name in names}


async def _no_journal() -> Window:
    return Window((), False, 0)


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything a bundle is made of, but for case, lock and what the keeper says. Each may raise.

    :param readings: the last one of each probe; in memory, so it is read in the main loop.
    :param wall_ms, boottime_ms: clocks.
    """

    journal: Callable[[], Awaitable[Window]] = _no_journal
    firewall: Callable[[], Mapping[str, Counted]] = dict
    logs: Callable[[], Sequence[LogHead]] = tuple
    image: Callable[[], Mapping[str, str]] = dict
    files: Callable[[], Mapping[str, str]] = dict
    readings: Callable[[], Sequence[Reading]] = tuple
    boot_id: Callable[[], str] = str
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    boottime_ms: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def sources_of(places: Places, readings: Callable[[], Sequence[Reading]]) -> Sources:
    """The sources of a box."""
    return Sources(
        read_journal,
        read_firewall,
        partial(read_logs, places.agent),
        partial(read_image, places),
        partial(read_digests, places.files),
        readings,
        partial(_boot_id, places.boot_id),
    )


def read_firewall(run: Callable[[str], str] | None = None) -> dict[str, Counted]:
    """What each rule of the firewall has counted, and how much stands in the sets that open and darken the uplink.

    :param run: runs a command of nftables; tests bring their own.
    :raises UnavailableError: ``bad_environment``, ``firewall_fault``: there is no firewall.
    """
    run = run or Nftables().run
    found: dict[str, Counted] = {}
    for table in ("inet", "netdev"):
        text, chain = run(f"list table {table} bsfg"), ""
        for line in text.splitlines():
            if match := _CHAIN.match(line):
                chain = match[1]
            elif (match := _RULE.search(line)) and _WORD.fullmatch(chain):
                name = f"{table}:{chain}:{match[3]}"
                before = found.get(name, Counted(0, 0))
                found[name] = Counted(before.packets + int(match[1]), before.bytes + int(match[2]))
        for name, body in _SET.findall(text):
            elements = _ELEMENTS.search(body)
            found[f"set:{table}:{name}"] = Counted(len(elements[1].split(",")) if elements else 0, 0)
    return found


def read_logs(document: Path) -> tuple[LogHead, ...]:
    """How far the logs are, as the agent's status document says. :raises UnavailableError: ``not_ready``."""
    status = StatusDocument.read(document)
    try:
        stores = [
            LogHead(
                _name(f"store:{each.category}"), _name(each.category), "", int(each.last_offset), 0, _hex(each.head)
            )
            for each in status.stores
        ]
        crossings = [
            LogHead(_name(each.name), _name(each.category), _hex(each.epoch), int(each.offset), int(each.confirmed), "")
            for each in status.crossings
        ]
    except (ValueError, TypeError) as error:
        raise UnavailableError(Reason.NOT_READY, f"the agent's status document: {error}") from error
    return tuple(sorted((*stores, *crossings), key=lambda each: (each.name, each.epoch))[:256])


def read_image(places: Places) -> dict[str, str]:
    """Name, version and root hash of the image that runs: by these its published SBOM and measurements are found.

    :raises OSError: they cannot be read.
    """
    found = {}
    for line in _read(places.os_release).decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        value = value.strip("\"'")
        if name in _RELEASE and _WORD.fullmatch(value) and clean_foreign(value) == value:
            found[name.lower()] = value
    return found | dict(_ROOT_HASH.findall(_read(places.command_line).decode(errors="replace")))


def read_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file; what cannot be read is said in its place: ``absent``, ``unreadable``."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = hashlib.sha256(_read(path)).hexdigest()
        except FileNotFoundError:
            found[name] = "absent"
        except OSError:
            found[name] = "unreadable"
    return found


def _boot_id(path: Path) -> str:
    text = _read(path).decode("ascii").strip().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise ValueError("no boot id")
    return text


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name that is none")
    return text


def _hex(text: str) -> str:
    if not _HEX.fullmatch(text):
        raise ValueError("a digest that is none")
    return text
