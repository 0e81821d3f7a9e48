# SPDX-License-Identifier: Apache-2.0
"""Changes of Secure Boot keys: a new key for a role, or entries of dbx for what must boot no more.

Each makes a new generation with the signed updates that take a box from the generation before to it. Each changes what
PCR 7 will be, so a box needs a second disk slot and an operator release before it gets them (``docs/firmware.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware.efi import (
    SHA256_BYTES,
    KeyVariable,
    appended,
    certificate_list,
    digest_list,
    parse_lists,
    render_lists,
)
from appliance.firmware.keys import NAME, ROLES, SecureBootKeys, new_key, private_pem, write_generation
from appliance.firmware.signed import SignedUpdate, sign_update


def rotate(
    keys: SecureBootKeys, role: KeyVariable, *, passphrase: str | None = None, now: datetime | None = None
) -> SecureBootKeys:
    """A new key for a role. The old db key stays allowed until it is revoked; an old KEK or PK is replaced at once.

    :param passphrase: opens the key that signs the update, and encrypts the new one.
    :raises RefusedError: ``firmware_keys``: a key cannot be opened, or the role has none.
    """
    if role not in ROLES:
        raise RefusedError(Reason.FIRMWARE_KEYS, f"{role} has no key; 'revoke' adds to it")
    when = _next(keys, now)
    number = keys.generation + 1
    key, certificate = new_key(role, _holder(keys), number, when)
    entry = certificate_list(keys.owner, certificate.public_bytes(Encoding.DER)).render()
    # Images signed by the old db key must boot until all boxes have images signed by the new one.
    append = role is KeyVariable.DB
    update = _signed(keys, role, entry, when, passphrase, append=append)
    content = appended(keys.contents[role], entry) if append else entry
    new = {f"{role}.key": private_pem(key, passphrase), f"{role}.crt": certificate.public_bytes(Encoding.PEM)}
    return _generation(keys, {role: content}, new, update)


def revoke(
    keys: SecureBootKeys,
    *,
    certificates: Sequence[x509.Certificate] = (),
    digests: Sequence[bytes] = (),
    passphrase: str | None = None,
    now: datetime | None = None,
) -> SecureBootKeys:
    """New entries of dbx.

    :param certificates: nothing that their keys signed may boot. :param digests: SHA-256 (Authenticode) of programs
        that may not boot, whoever signed them.
    :raises RefusedError: ``firmware_keys``: nothing new, a digest that is none, or a key still in use.
    """
    if any(len(digest) != SHA256_BYTES for digest in digests):
        raise RefusedError(Reason.FIRMWARE_KEYS, f"a digest has {SHA256_BYTES} bytes")
    ours = {role: keys.pair(role).certificate() for role in ROLES}
    for certificate in certificates:
        if holds := [role for role, own in ours.items() if own == certificate]:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"this is the {holds[0]} key in use; rotate {holds[0]} first")
    lists = [certificate_list(keys.owner, one.public_bytes(Encoding.DER)) for one in certificates]
    if digests:
        lists.append(digest_list(keys.owner, *dict.fromkeys(digests)))
    before = keys.contents[KeyVariable.DBX]
    content = appended(before, render_lists(tuple(lists)))
    if content == before:
        raise RefusedError(Reason.FIRMWARE_KEYS, "nothing to revoke that is not revoked already")
    update = _signed(keys, KeyVariable.DBX, content[len(before) :], _next(keys, now), passphrase, append=True)
    return _generation(keys, {KeyVariable.DBX: content}, {}, update)


def revoked(keys: SecureBootKeys) -> list[bytes]:
    """What dbx holds: certificates (DER) and digests."""
    return [entry.data for one in parse_lists(keys.contents[KeyVariable.DBX]) for entry in one.signatures]


def _signed(
    keys: SecureBootKeys, variable: KeyVariable, entry: bytes, when: datetime, passphrase: str | None, *, append: bool
) -> SignedUpdate:
    signer = keys.kek if variable in {KeyVariable.DB, KeyVariable.DBX} else keys.pk
    return sign_update(variable, entry, when, signer.open(passphrase), signer.certificate(), append=append)


def _generation(
    keys: SecureBootKeys, contents: Mapping[KeyVariable, bytes], new: Mapping[str, bytes], update: SignedUpdate
) -> SecureBootKeys:
    files = {path.name: path.read_bytes() for role in ROLES for path in (keys.pair(role).key, keys.pair(role).crt)}
    return write_generation(
        keys.root, keys.generation + 1, keys.owner, {**keys.contents, **contents}, {**files, **new}, [update]
    )


def _next(keys: SecureBootKeys, now: datetime | None) -> datetime:
    """Newer than every update before, even if this machine's clock was set back."""
    return max((now or datetime.now(UTC)).replace(microsecond=0), keys.when + timedelta(seconds=1))


def _holder(keys: SecureBootKeys) -> str:
    """Whose keys these are, as the certificates say."""
    names = keys.pk.certificate().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value).partition(" Secure Boot ")[0] if names else NAME
