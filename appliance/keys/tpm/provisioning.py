# SPDX-License-Identifier: Apache-2.0
"""Provisioning: makes the counter, the release index and the boundary key, once; mends what was removed since.

There is no journal. The key file is written last and whole: before it there is no identity, and whatever a run that
was killed left in the TPM is used again or removed; with it there is one, and it never changes. Nothing here can undo
an increment of the counter. (DESIGN: keys and time.)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import IntegrityError
from appliance.boundary.reasons import Reason
from appliance.keys.files import write_atomically
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity, boundary_template
from appliance.keys.tpm.policy import (
    BOUND_PCRS,
    COUNTER_INDEX,
    BoundaryPolicy,
    DeviceRef,
    Operators,
    counter_public,
)
from appliance.keys.tpm.public import NvAttribute, NvPublic

KEY_FILE: Final = "boundary-key.json"
"""The key file, in the keeper's folder."""


def load_identity(folder: Path) -> BoundaryIdentity | None:
    """The identity of this box; ``None``: it has none. :raises IntegrityError: ``tpm_altered``: the file is damaged."""
    try:
        return BoundaryIdentity.parse((folder / KEY_FILE).read_bytes())
    except FileNotFoundError:
        return None


def provision(
    device: Device,
    folder: Path,
    operators: Operators,
    image_key: rsa.RSAPublicKey,
    hook: Callable[[str], None] = lambda _: None,
) -> BoundaryIdentity:
    """Make what is missing and return the box's identity; may be killed anywhere and called again.

    A box that has an identity keeps it, whatever ``operators`` and ``image_key`` say: new ones need a new key.

    :param hook: called after the key file was written; tests end the process there.
    :raises RefusedError: ``tpm_unsupported``.
    :raises IntegrityError: ``tpm_altered``: the key file is damaged, or not of this TPM.
    """
    device.check_supported()
    identity = load_identity(folder)
    device.ensure_srk()
    if identity is not None:
        if identity.srk_name != device.srk_name:
            raise IntegrityError(Reason.TPM_ALTERED, "the storage root key is not the one of provisioning")
        _mend(device, identity)
        return identity
    counter = _ensure_counter(device)
    policy = BoundaryPolicy(DeviceRef(secrets.token_bytes(32)), operators, image_key)
    ensure_index(device, policy.release_public)
    pcrs = device.pcr_read(BOUND_PCRS)
    public, private = device.create_key(boundary_template(policy, policy.x(counter, pcrs)))
    identity = BoundaryIdentity(policy, counter, pcrs, public, private, device.srk_name)
    identity.check()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / KEY_FILE, identity.render())
    hook("key_file")
    return identity


def read_counter(device: Device) -> int:
    """The quarantine counter. :raises BsfgError: ``tpm_refused``: it is not there, or was never incremented."""
    return int.from_bytes(device.nv_read(COUNTER_INDEX, 8))


def _mend(device: Device, identity: BoundaryIdentity) -> None:
    """Put back indices that were removed or replaced. A counter made anew is beyond every former value: still latched.

    The release index comes back unwritten; the current release can be imported again.
    """
    with device.loaded(identity.public, identity.private):
        pass  # of this TPM, and of this storage root key
    _ensure_counter(device)
    ensure_index(device, identity.policy.release_public)


def _ensure_counter(device: Device) -> int:
    ensure_index(device, counter_public())
    public = device.nv_public(COUNTER_INDEX)
    if public is not None and not public.attributes & NvAttribute.WRITTEN:
        device.nv_increment(COUNTER_INDEX)  # a counter that was never incremented has no value
    return read_counter(device)


def ensure_index(device: Device, wanted: NvPublic) -> None:
    """Define an index; one at its place that differs in anything but WRITTEN is removed first."""
    public = device.nv_public(wanted.index)
    if public is not None and public.defined() != wanted:
        device.nv_undefine(wanted.index)
        public = None
    if public is None:
        device.nv_define(wanted)
