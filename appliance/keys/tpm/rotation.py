# SPDX-License-Identifier: Apache-2.0
"""A new boundary key beside the old one: how operators, or the builder of images, are replaced while a box is healthy.

:func:`rotate` makes the new key, for the new operators; the old key stays the one in use. The box enrols the new key,
and with the hub's certificate for it :func:`commit` switches over. :func:`abandon` goes back instead.

There is no journal. The new key lies in a file of its own until the switch, which is one ``rename``; each of the two
keys has a release index at a place of its own. So a process that is killed leaves the old key or the new one, whole,
and whatever else it left is removed when any of the three runs again. Both keys obey the same quarantine counter, so
no change of keys undoes a latch. (DESIGN: keys and time; docs/adr/0011-changing-operators.md.)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.files import sync_folder, write_atomically
from appliance.keys.tpm.boundary_key import BoundaryKey, Images
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity, boundary_template
from appliance.keys.tpm.policy import BOUND_PCRS, RELEASE_INDICES, BoundaryPolicy, DeviceRef, Operators
from appliance.keys.tpm.provisioning import KEY_FILE, ensure_index, load_identity
from appliance.keys.tpm.public import sha256

NEXT_FILE: Final = "boundary-key.next.json"
"""The new key, until it is switched to; of the form of the key file."""
_PROBE: Final = sha256(b"bsfg rotation")
"""What the new key signs before the switch; the signature goes nowhere."""


def load_next(folder: Path) -> BoundaryIdentity | None:
    """The new key that waits for its switch. :raises IntegrityError: ``tpm_altered``: its file is damaged."""
    try:
        return BoundaryIdentity.parse((folder / NEXT_FILE).read_bytes())
    except FileNotFoundError:
        return None


def rotate(
    device: Device,
    key: BoundaryKey,
    folder: Path,
    operators: Operators,
    image_key: rsa.RSAPublicKey | None = None,
    hook: Callable[[str], None] = lambda _: None,
) -> BoundaryIdentity:
    """Make a new key for these operators beside the one in use, or return the one that waits already.

    :param key: the one in use; it must be open, for a new key is no way out of a quarantine.
    :param image_key: a new image key; the same as before, if left out.
    :param hook: called after each write of a file; tests end the process there.
    :raises DeniedError: ``key_latched``, ``tpm_refused``: the key in use does not work.
    :raises RefusedError: ``bad_input``: a change to other operators is under way.
    """
    counter = key.branch()[1]
    current = key.identity
    wanted = BoundaryPolicy(
        DeviceRef(secrets.token_bytes(32)), operators, image_key or current.policy.image_key, _other_index(current)
    )
    waiting = load_next(folder)
    if waiting is not None:
        if replace(wanted, device=waiting.policy.device) != waiting.policy:
            raise RefusedError(Reason.BAD_INPUT, "a change to other operators is under way; commit or abandon it first")
        ensure_index(device, waiting.policy.release_public)
        return waiting
    ensure_index(device, wanted.release_public)  # what a former key or a killed run left there goes
    pcrs = device.pcr_read(BOUND_PCRS)
    public, private = device.create_key(boundary_template(wanted, wanted.x(counter, pcrs)))
    identity = BoundaryIdentity(wanted, counter, pcrs, public, private, device.srk_name)
    identity.check()
    write_atomically(folder / NEXT_FILE, identity.render())
    hook("next_file")
    return identity


def commit(
    device: Device, folder: Path, images: Images, hook: Callable[[str], None] = lambda _: None
) -> BoundaryIdentity:
    """Switch to the new key, for good; may be called again. The caller has installed the hub's certificate for it.

    The old key's release index is removed, so its operators cannot release it any more.

    :return: the identity that is in use now.
    :raises DeniedError: ``key_latched``, ``tpm_refused``: the new key does not work; nothing was changed.
    :raises UnavailableError: ``not_ready``: the box has no key at all.
    """
    waiting = load_next(folder)
    if waiting is not None:
        ensure_index(device, waiting.policy.release_public)
        BoundaryKey(device, waiting, images, folder).sign(_PROBE)
        (folder / NEXT_FILE).replace(folder / KEY_FILE)
        sync_folder(folder)
        hook("key_file")
    return _tidy(device, folder)


def abandon(device: Device, folder: Path, hook: Callable[[str], None] = lambda _: None) -> BoundaryIdentity:
    """Forget the new key, and keep the one in use; may be called again.

    :raises UnavailableError: ``not_ready``: the box has no key at all.
    """
    (folder / NEXT_FILE).unlink(missing_ok=True)
    sync_folder(folder)
    hook("next_file")
    return _tidy(device, folder)


def _tidy(device: Device, folder: Path) -> BoundaryIdentity:
    """Remove the release index that belongs to no key any more."""
    current = load_identity(folder)
    if current is None:
        raise UnavailableError(Reason.NOT_READY, "the box has no boundary key")
    stray = _other_index(current)
    if device.nv_public(stray) is not None:
        device.nv_undefine(stray)
    return current


def _other_index(identity: BoundaryIdentity) -> int:
    return next(index for index in RELEASE_INDICES if index != identity.policy.release_index)
