# SPDX-License-Identifier: Apache-2.0
"""Make for each zone what a box has of its own: a TPM with its vendor's certificate, an image's signatures, a keeper.

**Simulated**, and so named: the TPM (software), its vendor, and the boot whose measurements stand in its PCRs. All
else, from the keeper on, is as on a box.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.configs import keeper_config
from appliance.dev.environment import Environment
from appliance.dev.layout import ENTERPRISE, ZoneLayout
from appliance.dev.offline import OPERATORS, Offline
from appliance.hub.enrolment.authority import read_authority
from appliance.hub.enrolment.box import EnrolledRecord
from appliance.hub.enrolment.folder import EnrolmentFolder
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.setup import OfficePlan, init_office
from appliance.keys.certificates import Authority, certificate_pem
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.tpm.identity import spki_pem
from appliance.keys.tpm.manufacture import MadeTpm, make_software_tpm
from appliance.keys.tpm.simulated_boot import simulated_signatures


def make_boxes(environment: Environment) -> dict[ZoneId, MadeTpm]:
    """Make whatever is missing; what is there stays. May be killed anywhere and called again. Blocking.

    :raises UnavailableError: ``child_failed``: a program is missing; ``bad_environment``.
    """
    offline = Offline(environment.layout.offline)
    offline.ensure()
    made = {}
    for zone in environment.zones:
        files = environment.layout.zone(zone)
        made[zone] = make_software_tpm(files.tpm, offline.vendor)
        _write_boot(files, offline, environment.created_at_unix_ms // 1000)
        _empty_sessions(files)
        for folder in (files.keeper, files.keeper_run):
            folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(files.keeper_config, keeper_config(environment, zone).encode(), PRIVATE)
    _make_office(environment, made[ENTERPRISE].vendor_cas)
    return made


def _make_office(environment: Environment, vendor_cas: bytes) -> None:
    """The hub's enrolment office; and its CA's certificate, which each box is given before it has spoken to anybody."""
    offline, hub = Offline(environment.layout.offline), environment.layout.zone(ENTERPRISE)
    vendors = hub.boot / "tpm-vendors.pem"
    _write_once(vendors, vendor_cas)
    publics = [Offline.public(offline.operator_file(name)) for name in OPERATORS]
    plan = OfficePlan(
        ENTERPRISE,
        hub.pki,
        vendors=[vendors],
        release_operators=publics,
        enrolment_operators=publics[:1],
        image_keys=[hub.boot / "image.pem"],
    )
    office = init_office(hub.office, plan, datetime.now(UTC))
    hub_ca = certificate_pem(read_authority(office.authority).certificate)
    for zone in environment.zones:
        pki = PkiFolder(environment.layout.zone(zone).pki)
        pki.zones.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(pki.hub_ca, hub_ca)


def hub_authority(environment: Environment) -> Authority:
    """The hub CA with its key, which in development is a file. :raises UnavailableError: ``authority_unavailable``."""
    return read_authority(EnrolmentFolder(environment.layout.zone(ENTERPRISE).office).authority)


def enrolled_record(environment: Environment, zone: ZoneId) -> EnrolledRecord:
    """What the hub's office has on record of a zone's box. :raises UnavailableError: ``not_enrolled``."""
    box = EnrolmentOffice(environment.layout.zone(ENTERPRISE).office).of_zone(zone)
    if box is None or box.record is None:
        raise UnavailableError(Reason.NOT_ENROLLED, f"the hub knows no box of {zone}")
    return box.record


def _write_boot(files: ZoneLayout, offline: Offline, built: int) -> None:
    """What an image carries: whom it obeys, who built it and when, and the builder's signature over its PCR 11."""
    files.boot.mkdir(mode=0o700, exist_ok=True)
    image_key = offline.image_key()
    operators = "".join(spki_pem(offline.operator(name).public_key()) for name in OPERATORS)
    texts = {
        "operators.pem": operators.encode(),
        "image.pem": spki_pem(image_key.public_key()).encode(),
        "tpm2-pcr-signature.json": simulated_signatures(image_key),
        "build-time": f"{built}\n".encode(),
    }
    for name, text in texts.items():
        path = files.boot / name
        _write_once(path, text)


def _write_once(path: Path, text: bytes) -> None:
    """Write a file, unless it is so already."""
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text, PRIVATE)


def _empty_sessions(files: ZoneLayout) -> None:
    """A box has its sessions in memory, so none is there when it starts; nor here."""
    shutil.rmtree(files.sessions, ignore_errors=True)
    files.sessions.mkdir(mode=0o700, parents=True)
