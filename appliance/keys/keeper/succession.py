# SPDX-License-Identifier: Apache-2.0
"""Other operators, or another image key, in the configuration: the steps on disk and in the TPM. Blocking.

The configuration says whom the box is to obey. A key cannot change its policy; so where the two differ, a new key is
made beside the one in use, and waits until a hub has certified it (:mod:`appliance.keys.tpm.rotation`). Each step may
be cut short and done again.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from appliance.boundary.errors import DeniedError
from appliance.keys.files import sync_folder, write_atomically
from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity
from appliance.keys.tpm.policy import Operators
from appliance.keys.tpm.rotation import abandon, load_next, rotate
from appliance.keys.tpm.sealing import Sealed, seal, unseal

SECRETS_FOLDER: Final = "sealed"
"""The sealed secrets, in the keeper's folder; those of a key to come lie beside it until the switch."""

_log = logging.getLogger(__name__)


def prepare(
    device: Device, key: BoundaryKey, folder: Path, operators: Operators, image_key: RSAPublicKey
) -> BoundaryIdentity | None:
    """The new key that waits, if these operators or this image key are not those of the key in use.

    Where they are the same, what an abandoned change left is removed. A key that cannot be used now, as in a
    quarantine, gets no successor: it must be released first.
    """
    policy = key.identity.policy
    if (policy.operators, policy.image_key) == (operators, image_key):
        abandon(device, folder)
        return None
    waiting = load_next(folder)
    if waiting is not None and (waiting.policy.operators, waiting.policy.image_key) != (operators, image_key):
        abandon(device, folder)
    try:
        return rotate(device, key, folder, operators, image_key)
    except DeniedError as error:
        _log.warning("the configuration names other operators; the change waits: %s", error)
        return None


def reseal(device: Device, old: BoundaryKey, new: BoundaryKey, folder: Path) -> None:
    """Seal every secret for the new key too, beside those of the old one.

    :raises DeniedError: ``key_latched``, ``tpm_refused``: the old key does not open them now.
    """
    staged = _staged(folder, new.identity)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    for path in sorted((folder / SECRETS_FOLDER).glob("*.json")):
        secret = unseal(device, old, Sealed.parse(path.read_bytes()))
        write_atomically(staged / path.name, seal(device, new, secret).render())


def adopt_secrets(folder: Path, identity: BoundaryIdentity) -> None:
    """Take the secrets that were sealed for the key in use; those for a key that never came into use go."""
    staged = _staged(folder, identity)
    if staged.is_dir():
        (folder / SECRETS_FOLDER).mkdir(mode=0o700, exist_ok=True)
        for path in staged.glob("*.json"):
            path.replace(folder / SECRETS_FOLDER / path.name)
        sync_folder(folder / SECRETS_FOLDER)
    for stray in folder.glob(f"{SECRETS_FOLDER}-*"):
        shutil.rmtree(stray, ignore_errors=True)


def _staged(folder: Path, identity: BoundaryIdentity) -> Path:
    return folder / f"{SECRETS_FOLDER}-{identity.policy.device.hex()[:16]}"
