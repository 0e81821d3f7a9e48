# SPDX-License-Identifier: Apache-2.0
"""Everything that follows from the site configuration, written where the services of this boot find it. As root.

Writing it again changes what has changed and nothing else, and takes away what a former configuration had.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.box.configs import BoxChoices, BoxConfigs
from appliance.box.layout import BoxLayout, User
from appliance.box.measured import take_measurements
from appliance.box.rendering import OURS, public_files, storage_of
from appliance.box.storage import Storage
from appliance.brokers.config import Secrets
from appliance.keys.files import GROUP, PRIVATE, PUBLIC, replace_file, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.site.config import SiteConfig
from appliance.site.services import hosts

NOTHING: Final = "# Not configured: the sets of the firewall stay empty.\n"
_LOCALHOST: Final = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"


@dataclass(frozen=True, slots=True)
class Applying:
    """Writes the files of a boot. :param choices: what the site does not say."""

    layout: BoxLayout
    choices: BoxChoices = field(default=BoxChoices())

    def apply(self, site: SiteConfig) -> Storage:
        """Write everything; how the disk was shared. :raises OSError: the disk or memory is full."""
        at = self.layout
        self._folders()
        storage = storage_of(at, site)
        configs = BoxConfigs(site, at, storage, self.choices)
        self._certificates(site)
        control = configs.control(self._control_secrets())
        if control is None:
            at.control_config.unlink(missing_ok=True)
        else:
            self._give(at.control_config, control, User.CONTROL)
        files = public_files(configs)
        for path in at.network.glob(OURS):
            if path not in files:
                path.unlink()
        replace_file(at.hosts_file, hosts(site).encode(), PUBLIC)
        self._take_voucher()
        take_measurements(at)
        for path, data in files.items():
            self._public(path, data)
        return storage

    def apply_nothing(self) -> None:
        """This box is not configured: nothing opens, and nothing fails."""
        at = self.layout
        self._folders()
        for path in (
            *(at.keeper_config, at.node_config, at.facts_config, at.control_config),
            *(at.chrony, at.names, at.listeners, at.applied_site),
        ):
            path.unlink(missing_ok=True)
        for path in at.network.glob(OURS):
            path.unlink()
        replace_file(at.hosts_file, _LOCALHOST.encode(), PUBLIC)
        replace_file(at.resolv, b"", PUBLIC)
        replace_file(at.sets, NOTHING.encode(), PUBLIC)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _folders(self) -> None:
        """tmpfiles.d has made them on a box; elsewhere they are made here."""
        at = self.layout
        for folder in (
            *(at.site, at.local, at.facts_store, at.control_store, at.agent_state, at.keeper_state, at.pki),
            *(at.config, at.facts_run, at.agent_run, at.enrol_run, at.keeper_boot, at.sessions, at.status),
            *(at.names_run, at.network),
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def _give(self, path: Path, text: str, user: User) -> None:
        """A configuration that its service alone may read, and not change."""
        replace_file(path, text.encode(), GROUP, int(user) if os.geteuid() == 0 else None)

    @staticmethod
    def _public(path: Path, data: bytes | None) -> None:
        if data is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, data, PUBLIC)

    def _control_secrets(self) -> Secrets:
        """Passwords on loopback: made once a boot, so that the broker need not start again when this runs again."""
        path = self.layout.control_secrets
        try:
            values = json.loads(path.read_text("ascii"))
            return Secrets(values["control"], values["sys"])
        except FileNotFoundError:
            values = {name: secrets.token_urlsafe(24) for name in ("control", "sys")}
            replace_file(path, json.dumps(values).encode(), PRIVATE)
            return Secrets(values["control"], values["sys"])

    def _certificates(self, site: SiteConfig) -> None:
        """The hub CA, and no zone's certificates but under this one."""
        pki = PkiFolder(self.layout.pki)
        pki.zones.mkdir(parents=True, exist_ok=True)
        new = site.trust.hub_ca.encode()
        if pki.hub_ca.is_file() and pki.hub_ca.read_bytes() == new:
            return
        if pki.hub_ca.is_file():  # another hub: what the former one said of zones is kept beside, for receipts
            beside = self.layout.pki / f"before-{secrets.token_hex(4)}"
            beside.mkdir()
            for path in (pki.hub_ca, pki.denied, *pki.zones.glob("*.pem")):
                if path.is_file():
                    shutil.copyfile(path, beside / path.name)
            for path in (pki.denied, *pki.zones.glob("*.pem")):
                path.unlink(missing_ok=True)
        write_atomically(pki.hub_ca, new, PUBLIC)

    def _take_voucher(self) -> None:
        """The one of a stick, else that of the ESP, where the flasher put it. One that is used up does no harm."""
        for place in (self.layout.kept_voucher, self.layout.brought_voucher):
            try:
                data = place.read_bytes()
            except OSError:
                continue
            group = int(User.ENROL) if os.geteuid() == 0 else None
            replace_file(self.layout.voucher, data, GROUP, group)
            return
