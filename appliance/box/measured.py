# SPDX-License-Identifier: Apache-2.0
"""Takes the document of reference measurements that somebody put onto the ESP, for the watchdog to compare with.

Anybody may have put it there: it counts if the key of this image signed it, and if it takes nothing back that the box
has seen. A box without one compares PCR 11 with the signatures that came with its image, and that is all it lacks.
"""

from __future__ import annotations

import logging

from appliance.boundary.errors import BsfgError
from appliance.box.layout import BoxLayout
from appliance.keys.attestation.measurements import MEASUREMENTS_BYTES, Measurements
from appliance.keys.files import PUBLIC, read_regular, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.tpm.identity import load_rsa

_log = logging.getLogger(__name__)


def take_measurements(layout: BoxLayout) -> bool:
    """Keep what the ESP has, if it is good and new. Nothing else depends on it, so nothing fails. Blocking.

    :raises OSError: the disk is full.
    """
    try:
        data = read_regular(layout.brought_measurements, MEASUREMENTS_BYTES)
    except (OSError, ValueError):
        return False
    kept = PkiFolder(layout.pki).measurements
    try:
        key = load_rsa(layout.image_key.read_bytes())
        brought, seen = Measurements.parse(data), _seen(layout)
        if seen is not None and not seen.signed_by(key):
            seen = None  # of the key of another image
        brought.follows(seen, key)
    except (OSError, BsfgError) as error:
        _log.warning("%s was not taken: %s", layout.brought_measurements, error)
        return False
    if brought == seen:
        return False
    write_atomically(kept, data, PUBLIC)
    _log.info("reference measurements, serial %d, are kept", brought.serial)
    return True


def _seen(layout: BoxLayout) -> Measurements | None:
    try:
        return Measurements.parse(read_regular(PkiFolder(layout.pki).measurements, MEASUREMENTS_BYTES))
    except (OSError, ValueError, BsfgError):
        return None
