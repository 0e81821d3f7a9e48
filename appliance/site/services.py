# SPDX-License-Identifier: Apache-2.0
"""What resolver, name table and time service are told, from a site configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from appliance.site.config import Address, SiteConfig, numeric

HEAD: Final = "# Made from the site configuration by bsfg.\n"
CHRONY_STATE: Final = Path("/var/lib/chrony")

Resolved = Mapping[str, Sequence[Address]]
"""What names stand for, as somebody has looked them up."""


def hub_addresses(config: SiteConfig, resolved: Resolved) -> tuple[Address, ...]:
    """Where the hub is: as the document says, else as it was looked up; none is not known yet."""
    if config.endpoints is None:
        return ()
    return config.endpoints.addresses or tuple(resolved.get(config.endpoints.host, ()))


def resolv_conf(config: SiteConfig) -> str:
    """``/etc/resolv.conf``. Without resolvers it has none: nothing on the box answers, and no name is looked up."""
    lines = [f"nameserver {server}\n" for server in config.dns.servers]
    if config.dns.search:
        lines.append(f"search {' '.join(config.dns.search)}\n")
    return HEAD + "".join(lines) + "options timeout:2 attempts:2 edns0\n"


def hosts(config: SiteConfig, resolved: Resolved | None = None) -> str:
    """``/etc/hosts``: nats-control dials the hub by the name in its certificate, which no DNS knows."""
    lines = ["127.0.0.1 localhost\n", "::1 localhost ip6-localhost\n"]
    names = config.hub_identity
    if config.endpoints is not None and numeric(config.endpoints.host) is None and config.endpoints.addresses:
        names += f" {config.endpoints.host}"
    known = resolved or {}
    lines += [f"{address} {names}\n" for address in hub_addresses(config, known)]
    if config.proxy is not None:  # so that all dial it where the firewall lets them
        lines += [f"{address} {config.proxy.host}\n" for address in known.get(config.proxy.host, ())]
    return HEAD + "".join(lines)


def chrony_conf(config: SiteConfig, authorities: Path | None = None, state: Path = CHRONY_STATE) -> str | None:
    """The configuration of chronyd; ``None``: there is no time server, and it must not run.

    :param authorities: the file with :func:`site_authorities`, if there are any. :param state: its own folder.
    """
    if not config.time.nts and not config.time.ntp:
        return None
    lines = [f"server {name} iburst nts" for name in config.time.nts]
    lines += [f"server {host} iburst" for host in config.time.ntp]
    if config.time.nts:
        # a box whose clock is years off could not check a certificate's dates, and so never mend its clock
        lines += ["nocerttimecheck 1", f"ntsdumpdir {state}"]
        if authorities is not None:
            lines.append(f"ntstrustedcerts {authorities}")
    lines += [f"driftfile {state}/chrony.drift", "makestep 1.0 3", "rtcsync", "port 0", "cmdport 0"]
    return HEAD + "".join(f"{line}\n" for line in lines)


def site_authorities(config: SiteConfig) -> str:
    """The CA certificates of the site, one PEM text; empty: none."""
    return "".join(config.trust.authorities)
