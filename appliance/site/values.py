# SPDX-License-Identifier: Apache-2.0
"""Single values of a site configuration. Each parser takes a text, and raises :class:`ValueError` with what is wrong.

What has passed here is safe in a line of a configuration file of another program.
"""

from __future__ import annotations

import re
from hashlib import sha256
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import RefusedError
from appliance.keys.certificates import certificate_pem
from appliance.keys.tpm.identity import load_p256, spki_pem
from appliance.site.config import Address, MatchBy, Network, Port

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_KERNEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_OURS: Final = re.compile(r"(?:lo|all|default|(?:uplink|plant|port)[0-9]+|(?:uplink|plant)-bond)")
_DRIVER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"


def label(text: str) -> str:
    """Words for people, on one line."""
    if len(text) > 64 or not text.isprintable():
        raise ValueError("more than 64 characters, or some that cannot be printed")
    return text


def dns_name(text: str) -> str:
    """A host's name, in lower case."""
    name = text.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in labels):
        raise ValueError("not a DNS name")
    if labels[-1].isdigit():
        raise ValueError("neither an address nor a DNS name: the last part is a number")
    return name


def address(text: str) -> Address:
    """The address of one host, without a scope."""
    try:
        found = ip_address(text)
    except ValueError:
        raise ValueError("not an address") from None
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        raise ValueError("an address has no interface in it here")
    if found.is_unspecified or found.is_multicast or found.is_loopback or found == IPv4Address("255.255.255.255"):
        raise ValueError("not the address of one host")
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        raise ValueError("write it as IPv4")
    return found


def remote(text: str) -> Address:
    """The address of a host that can be reached through a router."""
    found = address(text)
    if found.is_link_local:
        raise ValueError("a link-local address says nothing without an interface")
    return found


def host(text: str) -> str:
    """A DNS name in lower case, or an address in its short form."""
    if "//" in text or re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]+", text):
        raise ValueError("a host alone: no scheme and no port")
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        return str(remote(text))
    return dns_name(text)


def ipv4_interface(text: str) -> IPv4Interface:
    """An IPv4 address of ours with its prefix."""
    found = _interface(text)
    if not isinstance(found, IPv4Interface):
        raise ValueError("not IPv4")
    edges = (found.network.network_address, found.network.broadcast_address)
    if found.network.prefixlen < 31 and found.ip in edges:
        raise ValueError("the network's own address, or its broadcast address")
    return found


def ipv6_interface(text: str) -> IPv6Interface:
    """An IPv6 address of ours with its prefix."""
    found = _interface(text)
    if not isinstance(found, IPv6Interface):
        raise ValueError("not IPv6")
    if found.network.prefixlen < 127 and found.ip == found.network.network_address:
        raise ValueError("the routers' anycast address")
    return found


def _interface(text: str) -> IPv4Interface | IPv6Interface:
    head, slash, prefix = text.partition("/")
    if not slash or not prefix.isdecimal():
        raise ValueError("an address and its prefix, such as 192.0.2.20/24")
    remote(head)
    try:
        found = ip_interface(text)
    except ValueError:
        raise ValueError("the prefix is too long") from None
    if found.network.prefixlen == 0:
        raise ValueError("a prefix of 0 is no network")
    return found


def network(text: str) -> Network:
    """A network behind a router."""
    if not text.partition("/")[2].isdecimal():
        raise ValueError("a network and its prefix, such as 10.20.0.0/16")
    try:
        found = ip_network(text)
    except ValueError as error:
        inside = "host bits" in str(error)
        raise ValueError("an address inside a network, not the network" if inside else "not a network") from None
    if found.prefixlen == 0:
        raise ValueError("that is everything; name a gateway instead")
    if found.is_loopback or found.is_multicast or found.is_link_local:
        raise ValueError("not a network that a router leads to")
    return found


def ipv4_gateway(text: str) -> IPv4Address:
    """An IPv4 router."""
    found = remote(text)
    if not isinstance(found, IPv4Address):
        raise ValueError("not IPv4")
    return found


def ipv6_gateway(text: str) -> IPv6Address:
    """An IPv6 router; link-local is usual."""
    found = address(text)
    if not isinstance(found, IPv6Address):
        raise ValueError("not IPv6")
    return found


def mac_port(text: str) -> Port:
    """A port by its hardware address."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError("not six bytes in hex")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError("not the address of one port")
    return Port(MatchBy.MAC, mac)


def named_port(text: str) -> Port:
    """A port by the name Linux gives it."""
    if not _KERNEL.fullmatch(text):
        raise ValueError("not the name of an interface")
    if _OURS.fullmatch(text):
        raise ValueError("a name that the box gives itself")
    return Port(MatchBy.NAME, text)


def driver_port(text: str) -> Port:
    """A port by its driver."""
    if not _DRIVER.fullmatch(text):
        raise ValueError("not the name of a driver")
    return Port(MatchBy.DRIVER, text)


def public_key(text: str) -> str:
    """An EC P-256 public key as PEM, in its one form."""
    try:
        return spki_pem(load_p256(text))
    except RefusedError as error:
        raise ValueError("not a PEM public key on P-256") from error


def ca_certificate(text: str) -> str:
    """One CA certificate as PEM, in its one form."""
    if text.count("-----BEGIN") != 1 or _CERTIFICATE not in text:
        raise ValueError("not one PEM certificate")
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ValueError("not a CA certificate") from error
    if not basic.ca or not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ValueError("not a CA certificate with an EC or RSA key")
    return certificate_pem(certificate).decode()


def hub_ca_certificate(text: str) -> str:
    """The CA of the boundary: EC P-256, that may sign CAs."""
    pem = ca_certificate(text)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if basic.path_length == 0:
        raise ValueError("a CA that may not sign device CAs")
    return pem


def key_name(pem: str) -> str:
    """A short name of a public key for people: the first 16 hex digits of the SHA-256 of its SubjectPublicKeyInfo."""
    key = load_p256(pem)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()[:16]


def certificate_name(pem: str) -> str:
    """A certificate for people: its subject, and the first 16 hex digits of the SHA-256 of its DER."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    subject = certificate.subject.rfc4514_string().encode(errors="backslashreplace").decode()
    return f"{subject} {certificate.fingerprint(hashes.SHA256()).hex()[:16]}"
