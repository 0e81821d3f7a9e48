# SPDX-License-Identifier: Apache-2.0
"""Where a box keeps its site configuration, and the rule by which it takes another one.

The rule: a box without one takes the first that is validly signed, and pins its signer. Each later one must be signed
by whoever signed the one in force, or by a key that the one in force names, and have a higher version than any before.
What is not taken changes nothing; why it was not taken is kept for the status page.

=================== ================================================================================================
``site.toml``       in force, as it came
``previous.toml``   the one before; of those that were proven by contact with the hub
``pending.json``    the trial of the one in force (:mod:`appliance.site.trial`); none: it is proven, or needs no proof
``refused.json``    why the last one was not taken: reason, meaning, hint, file, line (0: none), text
``memory.json``     the highest version ever taken, who may sign, digests of all that were taken
=================== ================================================================================================

Usage, at boot and whenever somebody brings a document::

    store = SiteStore(Path("/var/lib/bsfg/site"))
    offer = store.offer(data, "/boot/bsfg/site.toml")   # raises and keeps the refusal; SAME and OLDER change nothing
    accepted = store.load()                             # SignedSite or None
    store.tick(contact=False)                           # every few seconds; True: it was reverted, apply the old one
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError
from appliance.boundary.reasons import Reason
from appliance.keys.files import PUBLIC, locked, sync_folder, write_atomically
from appliance.site.document import SignedSite, open_site
from appliance.site.trial import Trial, Verdict

FOLDER: Final = Path("/var/lib/bsfg/site")
"""Where it is on a box."""
KNOWN: Final = 256
"""So many documents that were taken are known again."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Outcome(StrEnum):
    """What came of an offer that was not refused."""

    FIRST = "first"
    """The box had none, and pinned the signer of this one."""
    CHANGED = "changed"
    """It is in force now."""
    SAME = "same"
    """It is in force already."""
    OLDER = "older"
    """It was in force once; another one is now. A stick or a boot partition still has it; that is no fault."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What came of an offer. :param before: what was in force, if anything. :param trial: it must prove itself."""

    outcome: Outcome
    site: SignedSite
    before: SignedSite | None
    trial: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What outlives documents. :param floor: highest version ever taken. :param signers: who may sign, PEM texts."""

    floor: int
    signers: frozenset[str]
    known: tuple[str, ...]

    def after(self, site: SignedSite) -> Memory:
        """With one more document in force."""
        known = (*(digest for digest in self.known if digest != site.digest), site.digest)[-KNOWN:]
        return Memory(max(self.floor, site.config.version), site.pinned, known)


NOTHING: Final = Memory(0, frozenset(), ())


def judge(site: SignedSite, before: SignedSite | None, memory: Memory, file: str) -> Offer:
    """The rule. :raises DeniedError: ``site_foreign`` or ``site_rollback``."""
    if before is not None and site.data == before.data:
        return Offer(Outcome.SAME, site, before)
    if site.digest in memory.known:
        return Offer(Outcome.OLDER, site, before)
    if memory == NOTHING and before is None:
        return Offer(Outcome.FIRST, site, None)
    if site.signer not in memory.signers:
        raise DeniedError(Reason.SITE_FOREIGN, file)
    if site.config.version <= memory.floor:
        raise DeniedError(
            Reason.SITE_ROLLBACK, f"{file}: version {site.config.version}; the box has had {memory.floor}"
        )
    # nothing to go back to, or nobody to be in contact with: no trial
    return Offer(Outcome.CHANGED, site, before, trial=before is not None and not site.config.air_gapped)


def boottime() -> float:
    """Seconds since the box started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The id of this boot."""
    return _BOOT_ID.read_text("ascii").strip()


class SiteStore:
    """The site configuration of one box, in a folder.

    :param clock: the boottime clock. :param boot: the id of this boot.
    """

    def __init__(
        self, folder: Path = FOLDER, *, clock: Callable[[], float] = boottime, boot: Callable[[], str] = boot_id
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._boot = boot

    def load(self) -> SignedSite | None:
        """What is in force; ``None``: this box has none yet.

        A file that is damaged is not in force; the one before is then.

        :raises IntegrityError: ``bad_site``: neither can be read. :raises OSError: the disk fails.
        """
        faults = []
        for path in (self._site, self._previous):
            try:
                return open_site(path.read_bytes(), str(path))
            except FileNotFoundError:
                continue
            except BsfgError as error:
                faults.append(error)
        if faults:
            raise IntegrityError(Reason.BAD_SITE, "; ".join(fault.detail for fault in faults))
        return None

    def offer(self, data: bytes, file: str, *, dry_run: bool = False) -> Offer:
        """Take a document by the rule, or keep why it was not taken.

        :param file: where it came from, for people. :param dry_run: only say what would be done; nothing is written.
        :raises DeniedError: ``site_unsigned``, ``site_foreign`` or ``site_rollback``.
        :raises BadSiteError: ``bad_site``.
        """
        if dry_run:
            return self._judge(data, file)
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(self._folder):
            try:
                offer = self._judge(data, file)
            except BsfgError as error:
                self._refuse(error, file)
                raise
            if offer.outcome in (Outcome.FIRST, Outcome.CHANGED):
                self._take(offer)
            return offer

    def trial(self) -> Trial | None:
        """The trial of what is in force; ``None``: it is proven, or needs no proof."""
        try:
            trial = Trial.parse(json.loads(self._pending.read_bytes()))
        except (FileNotFoundError, ValueError):
            return None
        site = self.load()
        return trial if site is not None and site.digest == trial.digest else None

    def left_s(self) -> float | None:
        """Seconds that what is in force has left to prove itself; ``None``: it needs not."""
        trial = self.trial()
        return None if trial is None else trial.left(self._boot(), self._clock())

    def tick(self, *, contact: bool) -> bool:
        """Carry the trial on; call it at boot and every few seconds.

        :param contact: whether the hub was reached since this configuration is applied.
        :returns: whether the configuration in force is another one now: the old one, to be applied again.
        """
        if not self._pending.exists():
            return False
        with locked(self._folder):
            trial = self.trial()
            if trial is None:
                self._mend_trial()
                return False
            boot, now = self._boot(), self._clock()
            verdict = trial.verdict(boot, now, contact=contact)
            if verdict is Verdict.WAIT:
                self._write(self._pending, trial.noted(boot, now).document())
                return False
            return self._revert(trial) if verdict is Verdict.REVERT else self._keep()

    def refusal(self) -> dict[str, Any] | None:
        """Why the last document was not taken, or was taken back; ``None``: there is nothing to say."""
        try:
            found = json.loads(self._refused.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def raw(self) -> tuple[bytes, ...]:
        """What :meth:`pinned` follows from, as it lies there; not there: empty. :raises OSError: the disk fails."""
        return tuple(
            path.read_bytes() if path.exists() else b"" for path in (self._site, self._previous, self._remembered)
        )

    def pinned(self) -> frozenset[str]:
        """Who may sign the next document, and signed what is in force; empty: nobody is pinned yet.

        :raises IntegrityError: ``bad_site``: neither can be read. :raises DeniedError: ``site_unsigned``: what is in
            force is not signed. :raises OSError: the disk fails.
        """
        try:
            before = open_site(self._site.read_bytes(), self._site.name)
        except FileNotFoundError:
            before = None
        signers = self._memory(before).signers
        try:  # one that was just taken may name others; until the reboot, the one before is at work
            return signers | open_site(self._previous.read_bytes(), self._previous.name).pinned
        except (FileNotFoundError, BsfgError):
            return signers

    @property
    def _site(self) -> Path:
        return self._folder / "site.toml"

    @property
    def _previous(self) -> Path:
        return self._folder / "previous.toml"

    @property
    def _pending(self) -> Path:
        return self._folder / "pending.json"

    @property
    def _refused(self) -> Path:
        return self._folder / "refused.json"

    @property
    def _remembered(self) -> Path:
        return self._folder / "memory.json"

    def _judge(self, data: bytes, file: str) -> Offer:
        try:
            before = self.load()
        except IntegrityError:
            if not self._remembered.exists():  # nothing says who may mend it
                raise
            before = None
        return judge(open_site(data, file), before, self._memory(before), file)

    def _memory(self, before: SignedSite | None) -> Memory:
        """What is remembered; what is in force has been taken, whatever the power did in between."""
        try:
            values = json.loads(self._remembered.read_bytes())
            memory = Memory(int(values["floor"]), frozenset(values["signers"]), tuple(values["known"]))
        except FileNotFoundError:
            memory = NOTHING
        except (ValueError, KeyError, TypeError):
            memory = NOTHING
            if before is None:
                raise IntegrityError(Reason.BAD_SITE, f"{self._remembered}: damaged, as is site.toml") from None
        if before is None or (memory.signers == before.pinned and before.config.version <= memory.floor):
            return memory
        return memory.after(before)

    def _take(self, offer: Offer) -> None:
        """In an order in which the power may fail between any two lines."""
        proven = self.trial() is None
        if offer.before is not None and proven:
            write_atomically(self._previous, offer.before.data, PUBLIC)
        if offer.trial and self._previous.exists():
            trial = Trial.begin(offer.site.digest, offer.site.config.version, self._boot(), self._clock())
            self._write(self._pending, trial.document())
        write_atomically(self._site, offer.site.data, PUBLIC)
        if not offer.trial:
            self._forget_trial()
        self._remember(self._memory(offer.before).after(offer.site))
        self._refused.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _mend_trial(self) -> None:
        """The power failed between two files, or what is in force fell back: the trial is of another document."""
        site = self.load()
        if site is None or site.config.air_gapped or site.data == self._previous.read_bytes():
            self._forget_trial()
            return
        trial = Trial.begin(site.digest, site.config.version, self._boot(), self._clock())
        self._write(self._pending, trial.document())

    def _keep(self) -> bool:
        self._forget_trial()
        return False

    def _revert(self, trial: Trial) -> bool:
        try:
            before = open_site(self._previous.read_bytes(), str(self._previous))
        except (OSError, BsfgError):
            return self._keep()  # a configuration without contact is better than none
        text = f"version {trial.version} brought no contact with the hub; version {before.config.version} is back"
        self._refuse(DeniedError(Reason.LINK_DOWN, text), "site.toml")
        taken = self.load()
        if taken is not None:  # its version is spent, even if the power failed when it was taken
            self._remember(self._memory(taken).after(taken))
        write_atomically(self._site, before.data, PUBLIC)
        self._remember(self._memory(before).after(before))
        self._forget_trial()
        return True

    def _forget_trial(self) -> None:
        self._pending.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _remember(self, memory: Memory) -> None:
        values = {"floor": memory.floor, "signers": sorted(memory.signers), "known": list(memory.known)}
        self._write(self._remembered, values)

    def _refuse(self, error: BsfgError, file: str) -> None:
        document = {
            "reason": error.reason,
            "meaning": error.text.meaning,
            "hint": error.hint,
            "file": file,
            "line": getattr(error, "line", 0),
            "text": getattr(error, "problem", error.detail),
        }
        self._write(self._refused, document)

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        write_atomically(path, json.dumps(document, indent=2).encode() + b"\n", PUBLIC)
