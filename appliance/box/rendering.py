# SPDX-License-Identifier: Apache-2.0
"""The files of a boot that follow from the site configuration and hold no secret, as bytes by path.

``bsfg-site`` writes them, and the sensor makes them a second time and compares (probe ``configuration``): one function,
so that both mean the same. Whoever reads them may; nobody but root may change them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import DeniedError, IntegrityError
from appliance.boundary.reasons import Reason
from appliance.box.configs import BoxChoices, BoxConfigs
from appliance.box.layout import BoxLayout
from appliance.box.storage import Storage, share
from appliance.site.config import SiteConfig
from appliance.site.document import SignedSite, open_site
from appliance.site.egress import names_to_resolve, nft_script, nft_sets
from appliance.site.network import network_files
from appliance.site.services import chrony_conf, resolv_conf, site_authorities
from appliance.site.store import SiteStore
from appliance.watchdog.probes.configuration import Expected

OURS: Final = "*-bsfg-*"
"""Files of ours in networkd's folder."""


def storage_of(layout: BoxLayout, site: SiteConfig) -> Storage:
    """How the disk at hand is shared. :raises OSError: it cannot be asked."""
    return share(_size_of(layout), site.policy)


def public_files(configs: BoxConfigs) -> dict[Path, bytes | None]:
    """What is to be written, in order; ``None``: there must be no such file.

    The agent's configuration is last: units that look for it may start then.
    """
    at, site = configs.layout, configs.site
    authorities, names = site_authorities(site), names_to_resolve(site)
    texts: dict[Path, str | None] = {
        at.operators: "".join(site.trust.operators),
        at.keeper_config: configs.keeper(),
        at.facts_config: configs.facts(),
        **{at.network / name: text for name, text in network_files(site).items()},
        at.resolv: resolv_conf(site),
        at.site_authorities: authorities or None,
        at.chrony: chrony_conf(site, at.site_authorities if authorities else None),
        at.names: json.dumps(names) if names else None,
        at.sets: nft_script(nft_sets(site)),
        at.listeners: json.dumps(configs.listeners()),
        at.node_config: configs.node(),
    }
    return {path: None if text is None else text.encode() for path, text in texts.items()}


@dataclass(slots=True)
class Rendered:
    """What must be there in this boot, made from the signed document again; kept until that changes.

    A box without a site configuration must have none of it.
    """

    layout: BoxLayout
    choices: BoxChoices = BoxChoices()  # noqa: RUF009 - frozen
    _made_of: tuple[tuple[bytes, ...], int] | None = None
    _made: Expected | None = None

    def __call__(self) -> Expected:
        """As :data:`appliance.watchdog.probes.configuration.Render` says."""
        at = self.layout
        try:
            data = at.applied_site.read_bytes()
        except FileNotFoundError:
            nothing = (at.keeper_config, at.facts_config, at.node_config, at.control_config)
            return Expected(dict.fromkeys((*nothing, at.chrony, at.names, at.listeners)), "none")
        storage, made_of = _size_of(at), (data, *SiteStore(at.site).raw())
        if self._made is None or self._made_of != (made_of, storage):
            applied = open_site(data, at.applied_site.name)
            self._check(applied)
            configs = BoxConfigs(applied.config, at, share(storage, applied.config.policy), self.choices)
            self._made, self._made_of = Expected(public_files(configs), applied.digest[:16]), (made_of, storage)
        return self._made

    def _check(self, applied: SignedSite) -> None:
        """The document of this boot is by a signer that the box has pinned.

        :raises DeniedError: ``site_foreign``. :raises IntegrityError: ``bad_site``: what is pinned cannot be read.
        """
        pinned = SiteStore(self.layout.site).pinned()
        if not pinned:
            raise IntegrityError(Reason.BAD_SITE, "the box has pinned no signer")
        if applied.signer not in pinned:
            raise DeniedError(Reason.SITE_FOREIGN, "the document that this boot was made from is by another signer")


def _size_of(layout: BoxLayout) -> int:
    state = os.statvfs(layout.state)
    return state.f_blocks * state.f_frsize
