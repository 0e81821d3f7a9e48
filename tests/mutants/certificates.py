# SPDX-License-Identifier: Apache-2.0
"""Session certificates and device CAs as an attacker might make them, by class; the original stands first.

Each is a whole presentation: a chain and the key that goes with its first certificate. Most are signed by the zone's
own boundary key, as if somebody could use it for a moment: what then still is refused is not refused for a bad
signature.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from appliance.boundary.names import ZoneId, identity_of
from appliance.keys.certificates import Authority, certificate_der, new_device_ca, new_hub_ca, new_session
from tests.mutants.der import (
    ECDSA_SHA1,
    ECDSA_SHA256,
    ECDSA_SHA384,
    ECDSA_SHA512,
    RSA_SHA256,
    Extension,
    Key,
    Parts,
    at,
    bits,
    chain_pem,
    dns,
    generalized,
    integer,
    octets,
    oid,
    san,
    sequence,
    tlv,
    uses,
)

SAN, BC, KU, EKU = "2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.37"
SKI, AKI, NC = "2.5.29.14", "2.5.29.35", "2.5.29.30"
CLIENT, SERVER = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"
UNKNOWN = "1.3.6.1.4.1.55555.1"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256's group."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A chain to present and the key for it. ``kind`` is the class it counts for."""

    kind: str
    name: str
    chain: tuple[bytes, ...]
    key: Key

    @property
    def leaf(self) -> bytes:
        """What is presented first."""
        return self.chain[0]

    def session(self) -> bytes:
        """As a session file."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + chain_pem(self.chain)


class Site:
    """A hub CA, two zones with their device CAs, and a stranger's hub."""

    def __init__(self, now: datetime, zone: ZoneId, other: ZoneId) -> None:
        self.now, self.zone, self.other = now, zone, other
        self.hub = new_hub_ca(now)
        self.device, self.foreign = new_device_ca(self.hub, zone, now), new_device_ca(self.hub, other, now)
        self.rogue_hub = new_hub_ca(now)
        session = new_session(self.device, zone, now)
        self.key = session.key
        self.parts = Parts.of(session.certificate, self.device.key)
        self.original = Mutant("original", "as issued", self.chain_of(certificate_der(session.certificate)), self.key)
        self.again = Mutant("original", "encoded here", self.chain_of(self.parts.der()), self.key)

    def chain_of(self, leaf: bytes, *authorities: Authority) -> tuple[bytes, ...]:
        """The leaf, and what it is said to be issued by."""
        return (leaf, *(certificate_der(one.certificate) for one in authorities or (self.device,)))

    def mutants(self) -> list[Mutant]:
        """All of them, each another presentation."""
        makers: dict[str, Callable[[], Iterator[tuple[str, Parts | bytes | Mutant]]]] = {
            "names": self._names,
            "basic constraints": self._basic,
            "key usage": self._usage,
            "extended key usage": self._uses,
            "dates": self._dates,
            "version": self._versions,
            "extensions": self._extensions,
            "signature": self._signatures,
            "flipped bits": self._flips,
            "key type": self._keys,
            "issuer": self._issuers,
            "chain": self._chains,
            "device CA": self._device_cas,
        }
        found = []
        for kind, make in makers.items():
            for name, made in make():
                if isinstance(made, Mutant):
                    found.append(replace(made, kind=kind, name=name))
                else:
                    der = made if isinstance(made, bytes) else made.der()
                    found.append(Mutant(kind, name, self.chain_of(der), self.key))
        return found

    # -- what a certificate says ---------------------------------------------------------------------------------------

    def _names(self) -> Iterator[tuple[str, Parts]]:
        own, name, other = identity_of(self.zone), dns(identity_of(self.zone)), dns(identity_of(self.other))
        uri, mail = tlv(0x86, b"spiffe://" + own.encode()), tlv(0x81, f"x@{own}".encode())
        address, address6 = tlv(0x87, b"\x7f\0\0\1"), tlv(0x87, b"\0" * 15 + b"\1")
        directory = tlv(0xA4, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, own)]).public_bytes())
        other_name = tlv(0xA0, oid(UNKNOWN), tlv(0xA0, tlv(0x0C, own.encode())))
        registered = tlv(0x88, oid(UNKNOWN)[2:])
        lists: dict[str, tuple[bytes, ...]] = {
            "none in the list": (),
            "twice": (name, name),
            "other": (other,),
            "own and other": (name, other),
            "other and own": (other, name),
            **{f"own and a {kind}": (name, extra) for kind, extra in _kinds(uri, mail, address, address6)},
            **{f"a {kind} and own": (extra, name) for kind, extra in _kinds(uri, mail, address, address6)},
            **{f"only a {kind}": (extra,) for kind, extra in _kinds(uri, mail, address, address6)},
            "own and a directory name": (name, directory),
            "only a directory name": (directory,),
            "own and an other name": (name, other_name),
            "only an other name": (other_name,),
            "own and a registered id": (name, registered),
            "only a registered id": (registered,),
            "a mail name that is the own": (tlv(0x81, own.encode()),),
            "a URI that is the own": (tlv(0x86, own.encode()),),
            "three": (name, name, name),
        }
        for text in _near(own, identity_of(self.other)):
            lists[f"name {text!r}"] = (dns(text),)
            lists[f"own and name {text!r}"] = (name, dns(text))
        for label, names in lists.items():
            yield label, self._with(SAN, san(*names))
        yield "trailing bytes in the list", self._with(SAN, san(name) + b"\0")
        yield "unknown kind of name", self._with(SAN, san(tlv(0x89, own.encode())))
        yield "a constructed dNSName", self._with(SAN, san(tlv(0xA2, tlv(0x16, own.encode()))))
        yield "no list at all", self.parts.without(SAN)
        yield "names in the critical form", self.parts.having(replace(self.parts.extension(SAN), critical=True))
        yield "names of the issuer instead", self.parts.without(SAN).having(Extension("2.5.29.18", False, san(name)))

    def _with(self, wanted: str, value: bytes) -> Parts:
        return self.parts.having(replace(self.parts.extension(wanted), value=value))

    def _basic(self) -> Iterator[tuple[str, Parts]]:
        yes, zero = b"\x01\x01\xff", b"\x02\x01\x00"
        yield "a CA", self._with(BC, sequence(yes))
        yield "a CA of path length 0", self._with(BC, sequence(yes, zero))
        yield "a path length without a CA", self._with(BC, sequence(zero))
        yield "FALSE written out", self._with(BC, sequence(b"\x01\x01\x00"))
        yield "not critical", self.parts.having(replace(self.parts.extension(BC), critical=False))
        yield "missing", self.parts.without(BC)
        yield "a CA that is not critical", self.parts.having(Extension(BC, False, sequence(yes)))
        yield "trailing bytes", self._with(BC, sequence() + b"\0")

    def _usage(self) -> Iterator[tuple[str, Parts]]:
        for bit in range(9):
            alone = _named_bits({bit})
            if bit:
                yield f"only bit {bit}", self._with(KU, alone)
                yield f"bit {bit} too", self._with(KU, _named_bits({0, bit}))
        yield "none", self._with(KU, bits(b"\0", 7))
        yield "all", self._with(KU, _named_bits(set(range(9))))
        yield "not critical", self.parts.having(replace(self.parts.extension(KU), critical=False))
        yield "missing", self.parts.without(KU)

    def _uses(self) -> Iterator[tuple[str, Parts]]:
        code, mail, stamp, ocsp = (f"1.3.6.1.5.5.7.3.{number}" for number in (3, 4, 8, 9))
        every = "2.5.29.37.0"
        for dotted in ((CLIENT,), (SERVER,), (every,), (code,), (mail,), (stamp,), (ocsp,), (UNKNOWN,)):
            yield f"only {dotted[0]}", self._with(EKU, uses(*dotted))
        for more in (code, mail, stamp, ocsp, every, UNKNOWN, CLIENT):
            yield f"{more} too", self._with(EKU, uses(CLIENT, SERVER, more))
        yield "none", self._with(EKU, uses())
        yield "missing", self.parts.without(EKU)
        yield "critical", self.parts.having(replace(self.parts.extension(EKU), critical=True))

    def _dates(self) -> Iterator[tuple[str, Parts]]:
        now, begin, end = self.now, self.parts.not_before, self.parts.not_after
        spans = {
            "ended a second ago": (begin, now - timedelta(seconds=1)),
            "ended a year ago": (begin - timedelta(days=366), now - timedelta(days=365)),
            "begins in a minute": (now + timedelta(minutes=1), end),
            "begins in a year": (now + timedelta(days=365), now + timedelta(days=366)),
            "ends before it begins": (end, begin),
            "ends when it begins": (end, end),
            "an hour": (begin, begin + timedelta(hours=1)),
            "since yesterday": (now - timedelta(days=1), end),
            "a year": (begin, begin + timedelta(days=365)),
            "as long as its issuer": (begin, self.device.certificate.not_valid_after_utc),
            "longer than its issuer": (begin, self.device.certificate.not_valid_after_utc + timedelta(days=1)),
            "to the year 9999": (begin, at(9999, 12, 31)),
            "since 1970": (at(1970), end),
        }
        for name, (first, last) in spans.items():
            yield name, replace(self.parts, not_before=first, not_after=last)
        for name, text in {"no seconds": b"%y%m%d%H%MZ", "a time zone": b"%y%m%d%H%M%S+0000"}.items():
            odd = tlv(0x17, end.strftime(text.decode()).encode())
            yield f"the end with {name}", replace(self.parts, validity=sequence(generalized(begin), odd))
        early = tlv(0x18, end.strftime("%Y%m%d%H%M%S.5Z").encode())
        yield "the end with a fraction", replace(self.parts, validity=sequence(generalized(begin), early))
        yield "no end", replace(self.parts, validity=sequence(generalized(begin)))

    def _versions(self) -> Iterator[tuple[str, Parts]]:
        for number in (0, 1, 3, 255):
            yield f"version {number + 1}", replace(self.parts, version=tlv(0xA0, integer(number)))
        yield "version 1 by default, with extensions", replace(self.parts, version=b"")
        yield "version 1 by default, without", replace(self.parts, version=b"", extensions=())
        yield "serial 0", replace(self.parts, serial=integer(0))
        yield "a negative serial", replace(self.parts, serial=integer(-5))
        yield "a serial of 30 bytes", replace(self.parts, serial=integer(2**239 + 1))
        yield "an empty serial", replace(self.parts, serial=tlv(0x02))
        yield "a padded serial", replace(self.parts, serial=tlv(0x02, b"\0\0\1"))

    def _extensions(self) -> Iterator[tuple[str, Parts]]:
        for one in self.parts.extensions:
            yield f"{one.oid} twice", replace(self.parts, extensions=(*self.parts.extensions, one))
            yield f"{one.oid} with trailing bytes", self._with(one.oid, one.value + b"\0")
            yield f"{one.oid} cut short", self._with(one.oid, one.value[:-1])
            yield f"{one.oid} empty", self._with(one.oid, b"")
            if one.oid in {SKI, AKI}:
                yield f"{one.oid} missing", self.parts.without(one.oid)
                yield f"{one.oid} critical", self.parts.having(replace(one, critical=True))
            odd = b"\x01\x01\x00" if not one.critical else b"\x01\x01\x01"
            yield f"{one.oid} with an odd flag", self.parts.having(replace(one, flag=odd))
        second = Extension(SAN, False, san(dns(identity_of(self.other))))
        yield "a second list of names", replace(self.parts, extensions=(*self.parts.extensions, second))
        yield "a first list of names", replace(self.parts, extensions=(second, *self.parts.extensions))
        yield "unknown and critical", self.parts.having(Extension(UNKNOWN, True, b"\5\0"))
        yield "unknown", self.parts.having(Extension(UNKNOWN, False, b"\5\0"))
        yield "a precertificate's poison", self.parts.having(Extension("1.3.6.1.4.1.11129.2.4.3", True, b"\5\0"))
        constraint = self._nc([dns(identity_of(self.other))])
        yield "constraints of a CA", self.parts.having(Extension(NC, True, constraint))
        yield "a policy", self.parts.having(Extension("2.5.29.32", False, sequence(sequence(oid(UNKNOWN)))))
        yield "inhibit any policy", self.parts.having(Extension("2.5.29.54", True, integer(0)))
        yield "none at all", replace(self.parts, extensions=())
        yield "bytes behind them", replace(self.parts, tail=b"\5\0")
        wrong = sequence(tlv(0x80, b"\0" * 20))
        yield "another issuer's key id", self._with(AKI, wrong)

    @staticmethod
    def _nc(permitted: list[bytes], excluded: list[bytes] | None = None) -> bytes:
        trees = [tlv(0xA0, *(sequence(one) for one in permitted))] if permitted else []
        trees += [tlv(0xA1, *(sequence(one) for one in excluded))] if excluded else []
        return sequence(*trees)

    # -- who signed it -------------------------------------------------------------------------------------------------

    def _signatures(self) -> Iterator[tuple[str, Parts | bytes]]:
        parts, good = self.parts, self.parts.signature()
        r, s = decode_dss_signature(good)
        numbers = {"r 0": (0, s), "s 0": (r, 0), "both 0": (0, 0), "r 1": (1, s), "r of the order": (ORDER, s)}
        numbers |= {"s of the order": (r, ORDER), "s beyond the order": (r, s + ORDER), "swapped": (s, r)}
        for name, (first, second) in numbers.items():
            yield name, parts.der(encode_dss_signature(first, second))
        yield "negative r", parts.der(sequence(integer(-r), integer(s)))
        yield "empty", parts.der(b"")
        yield "cut short", parts.der(good[:-1])
        yield "with trailing bytes", parts.der(good + b"\0")
        yield "of other content", parts.der(replace(parts, serial=integer(7)).signature())
        yield "raw r and s", parts.der(r.to_bytes(32) + s.to_bytes(32))
        for name, algorithm, digest in (
            ("SHA-1", ECDSA_SHA1, hashes.SHA1()),  # noqa: S303 - to be refused
            ("SHA-384", ECDSA_SHA384, hashes.SHA384()),
            ("SHA-512", ECDSA_SHA512, hashes.SHA512()),
        ):
            yield f"with {name}", replace(parts, inner=algorithm, outer=algorithm, digest=digest)
            yield f"said to be with {name} outside", replace(parts, outer=algorithm)
            yield f"said to be with {name} inside", replace(parts, inner=algorithm)
        yield "an algorithm with parameters", replace(parts, inner=ECDSA_SHA256 + b"\5\0", outer=ECDSA_SHA256 + b"\5\0")
        yield "an unknown algorithm", replace(parts, inner=oid(UNKNOWN), outer=oid(UNKNOWN))

    def _flips(self) -> Iterator[tuple[str, bytes]]:
        der, chance = self.parts.der(), random.Random(7)
        for position in sorted(chance.sample(range(len(der)), 48)):
            changed = bytearray(der)
            changed[position] ^= 1 << chance.randrange(8)
            yield f"byte {position}", bytes(changed)

    def _keys(self) -> Iterator[tuple[str, Mutant]]:
        keys: dict[str, Key] = {
            "P-384": ec.generate_private_key(ec.SECP384R1()),
            "P-521": ec.generate_private_key(ec.SECP521R1()),
            "secp256k1": ec.generate_private_key(ec.SECP256K1()),
            "RSA 2048": rsa.generate_private_key(65537, 2048),
            "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        }
        for name, key in keys.items():
            spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            yield name, Mutant("", "", self.chain_of(replace(self.parts, spki=spki).der()), key)
        somebody = ec.generate_private_key(ec.SECP256R1())
        yield "another's key", Mutant("", "", self.chain_of(self.parts.der()), somebody)

    def _issuers(self) -> Iterator[tuple[str, Mutant]]:
        zone, now = self.zone, self.now
        rogue = new_device_ca(self.rogue_hub, zone, now)
        twin = new_device_ca(self.hub, zone, now)
        root_of_its_own = replace(self.parts, signer=self.key, issuer=self.parts.subject)
        signers: dict[str, tuple[Parts, tuple[Authority, ...]]] = {
            "the hub CA itself": (self._issued_by(self.hub), (self.hub,)),
            "another zone's device CA": (self._issued_by(self.foreign), (self.foreign,)),
            "a stranger's device CA": (self._issued_by(rogue), (rogue,)),
            "a stranger's device CA and root": (self._issued_by(rogue), (rogue, self.rogue_hub)),
            "a stranger's device CA beside the right one": (self._issued_by(rogue), (rogue, self.device)),
            "an unregistered device CA of the zone": (self._issued_by(twin), (twin,)),
            "itself": (root_of_its_own, (self.device,)),
            "nobody of this name": (replace(self.parts, issuer=self.parts.subject), (self.device,)),
            "the name of another": (replace(self.parts, issuer=self.foreign.certificate.subject.public_bytes()), ()),
            "the name in another encoding": (replace(self.parts, issuer=_printable(self.device)), ()),
            "the name with a space": (replace(self.parts, issuer=_spaced(self.device)), ()),
            "the key of another": (replace(self.parts, signer=self.foreign.key), ()),
            "the key of the hub": (replace(self.parts, signer=self.hub.key), ()),
            "an empty name": (replace(self.parts, issuer=sequence()), ()),
        }
        for name, (parts, authorities) in signers.items():
            yield name, Mutant("", "", self.chain_of(parts.der(), *authorities), self.key)
        yield "a CA below the device CA", self._below(self.device)
        yield "a session as a CA", self._below(Authority(self.key, x509.load_der_x509_certificate(self.parts.der())))

    def _issued_by(self, authority: Authority) -> Parts:
        model = self.parts.extension(AKI)
        identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        parts = replace(self.parts, issuer=authority.certificate.subject.public_bytes(), signer=authority.key)
        return parts.having(replace(model, value=sequence(tlv(0x80, identifier))))

    def _below(self, above: Authority) -> Mutant:
        """A leaf under a CA that a path length of 0 does not allow."""
        key = ec.generate_private_key(ec.SECP256R1())
        model = self._issued_by(above)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
        below = replace(model, subject=name.public_bytes(), spki=spki).without(SAN, EKU)
        below = below.having(
            Extension(BC, True, sequence(b"\x01\x01\xff")),
            Extension(KU, True, _named_bits({5})),
            Extension(SKI, False, octets(identifier)),
        )
        authority = Authority(key, x509.load_der_x509_certificate(below.der()))
        leaf = self._issued_by(authority).der()
        chain = [leaf, below.der(), certificate_der(above.certificate), certificate_der(self.device.certificate)]
        return Mutant("", "", tuple(dict.fromkeys(chain)), self.key)

    def _chains(self) -> Iterator[tuple[str, Mutant]]:
        leaf = self.original.leaf
        for name, authorities in {
            "another zone's device CA": (self.foreign,),
            "the hub CA instead": (self.hub,),
            "a stranger's root": (self.rogue_hub,),
            "a new certificate of the same name": (new_device_ca(self.hub, self.zone, self.now),),
        }.items():
            yield name, Mutant("", "", self.chain_of(leaf, *authorities), self.key)
        yield "the leaf alone", Mutant("", "", (leaf,), self.key)
        itself = certificate_der(self.device.certificate)
        yield "the device CA as a leaf", Mutant("", "", self.chain_of(itself), self.device.key)
        yield "the hub CA as a leaf", Mutant("", "", (certificate_der(self.hub.certificate),), self.hub.key)
        yield "the other zone's name under the other's CA", self._session_of(self.foreign, self.zone)
        yield "the other's name under the own CA", self._session_of(self.device, self.other)

    def _session_of(self, authority: Authority, zone: ZoneId) -> Mutant:
        session = new_session(authority, zone, self.now)
        return Mutant("", "", self.chain_of(certificate_der(session.certificate), authority), session.key)

    def _device_cas(self) -> Iterator[tuple[str, Mutant]]:
        for name, parts, key in self.device_ca_parts():
            certificate = parts.der()
            spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert parts.spki == spki or name == "the key of another"
            signed = replace(self.parts, signer=key)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                signed = replace(signed, inner=RSA_SHA256, outer=RSA_SHA256)
            identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
            signed = signed.having(replace(self.parts.extension(AKI), value=sequence(tlv(0x80, identifier))))
            yield name, Mutant("", "", (signed.der(), certificate), self.key)

    def device_ca_parts(self) -> Iterator[tuple[str, Parts, Key]]:
        """Device CA certificates that the hub CA signed by mistake, each for a key of its own; and one it did not."""
        own, other = dns(identity_of(self.zone)), dns(identity_of(self.other))
        yes = b"\x01\x01\xff"

        def made(change: Callable[[Parts], Parts], key: Key | None = None) -> tuple[Parts, Key]:
            chosen = key or ec.generate_private_key(ec.SECP256R1())
            spki = chosen.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            identifier = x509.SubjectKeyIdentifier.from_public_key(chosen.public_key()).digest
            base = Parts.of(self.device.certificate, self.hub.key)
            base = replace(base, spki=spki, serial=integer(x509.random_serial_number()))
            return change(base.having(Extension(SKI, False, octets(identifier)))), chosen

        def value(wanted: str, content: bytes, *, critical: bool = True) -> Callable[[Parts], Parts]:
            return lambda parts: parts.having(Extension(wanted, critical, content))

        changes: dict[str, Callable[[Parts], Parts]] = {
            "path length 1": value(BC, sequence(yes, b"\x02\x01\x01")),
            "no path length": value(BC, sequence(yes)),
            "not a CA": value(BC, sequence()),
            "constraints on the path not critical": value(BC, sequence(yes, b"\x02\x01\x00"), critical=False),
            "no constraints on the path": lambda parts: parts.without(BC),
            "may not sign certificates": value(KU, _named_bits({0})),
            "no key usage": lambda parts: parts.without(KU),
            "no constraints on names": lambda parts: parts.without(NC),
            "constraints not critical": value(NC, self._nc([own]), critical=False),
            "another name": value(NC, self._nc([other])),
            "two names": value(NC, self._nc([own, other])),
            "the own name twice": value(NC, self._nc([own, own])),
            "every name": value(NC, self._nc([dns("")])),
            "a parent's name": value(NC, self._nc([dns("bsfg")])),
            "names below": value(NC, self._nc([dns("." + identity_of(self.zone))])),
            "upper case": value(NC, self._nc([dns(identity_of(self.zone).upper())])),
            "only an exclusion": value(NC, self._nc([], [other])),
            "the own name excluded": value(NC, self._nc([own], [own])),
            "version 1": lambda parts: replace(parts, version=b"", extensions=()),
            "another issuer": lambda parts: replace(parts, signer=self.rogue_hub.key),
            "itself as its issuer": lambda parts: replace(parts, issuer=parts.subject),
        }
        for name, change in changes.items():
            yield (name, *made(change))
        yield ("P-384", *made(lambda parts: parts, ec.generate_private_key(ec.SECP384R1())))
        yield ("RSA", *made(lambda parts: parts, rsa.generate_private_key(65537, 2048)))


def _kinds(*names: bytes) -> list[tuple[str, bytes]]:
    return list(zip(("URI", "mail name", "address", "IPv6 address"), names, strict=True))


def _near(own: str, other: str) -> list[str | bytes]:
    """Names that some comparison somewhere might take for the own one."""
    raw = own.encode()
    return [
        "",
        ".",
        "*",
        "bsfg",
        own.removesuffix("-bsfg"),
        f"x.{own}",
        f"a.b.c.{own}",
        f"*.{own}",
        f".{own}",
        f"{own}.",
        f"{own}..",
        f" {own}",
        f"{own} ",
        f"{own}\t",
        f"{own}\n",
        f"{own}.local",
        f"{own}:443",
        f"DNS:{own}",
        f"https://{own}",
        f"{own},{other}",
        f"{own} {other}",
        own.upper(),
        own.title(),
        own.replace("-", "_"),
        own.replace("-", "--"),
        own.replace("-", "."),
        own.replace("s", "*", 1),
        "*-bsfg",
        "plant-*",
        own[:-1],
        own + "x",
        "x" + own,
        "all-bsfg",
        "-bsfg",
        f"xn--{own}",
        own.replace("s", "\u0455"),  # a Cyrillic letter
        raw + b"\0",
        raw + b"\0." + other.encode(),
        b"\0" + raw,
        raw.replace(b"-", b"\xad"),
        raw + b"\xff",
        f"{'a' * 40}-bsfg",
        "a" * 300,
        "127.0.0.1",
        "::1",
        own.replace("s", "%73", 1),
    ]


def _named_bits(wanted: set[int]) -> bytes:
    """A KeyUsage with these bits, in DER: no trailing zeros."""
    last = max(wanted)
    value = sum(1 << (15 - bit) for bit in wanted).to_bytes(2)[: last // 8 + 1]
    return bits(value, 7 - last % 8)


def _printable(authority: Authority) -> bytes:
    """The subject of a CA as a PrintableString."""
    name = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    return sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(0x13, name.encode()))))


def _spaced(authority: Authority) -> bytes:
    """The subject of a CA with a space that comparison by RFC 5280 ignores."""
    name = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    return sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(0x0C, name.replace(" ", "  ").encode()))))
