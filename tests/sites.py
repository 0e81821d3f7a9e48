# SPDX-License-Identifier: Apache-2.0
"""Site configurations for tests: keys made once, the documented examples with them filled in, and small documents."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.keys.certificates import certificate_pem, new_hub_ca
from appliance.keys.tpm.identity import spki_pem
from appliance.site.config import SiteConfig
from appliance.site.document import MARK, sign_site
from appliance.site.reading import read_site
from appliance.site.template import fill

EXAMPLES = Path(__file__).resolve().parent.parent / "docs/examples/site"
NAMES = ("single-site", "two-nics", "vlan-one-nic", "proxy", "ipv6", "air-gapped")


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """A private key by a name of the test's own."""
    return ec.generate_private_key(ec.SECP256R1())


def public(name: str) -> str:
    """The public half, PEM."""
    return spki_pem(key(name).public_key())


@cache
def authority(name: str) -> str:
    """A CA certificate, PEM."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return certificate_pem(new_hub_ca(now, f"test {name}", key(name)).certificate).decode()


@cache
def pems() -> dict[str, str]:
    """What the markers of examples stand for."""
    operators = {f"OPERATOR_{number}": public(f"operator {number}") for number in (1, 2, 3)}
    return {"HUB_CA": authority("hub"), "SITE_CA": authority("site"), **operators}


@cache
def example(name: str) -> str:
    """A documented example with keys."""
    return fill((EXAMPLES / f"{name}.toml").read_text("utf-8"), pems())


@cache
def config(name: str) -> SiteConfig:
    """A documented example, parsed."""
    return read_site(example(name).encode(), f"{name}.toml")


def ending(signer: str, value: bytes) -> bytes:
    """A table [signature] as the product writes it."""
    return MARK + f'signer = """\n{signer}"""\nvalue = "{base64.b64encode(value).decode()}"\n'.encode()


@cache
def signed(version: int = 1, *, name: str = "single-site", by: str = "signer", signers: tuple[str, ...] = ()) -> bytes:
    """An example as a signed document; the same bytes each time."""
    text = example(name).replace("version = 1 ", f"version = {version} ", 1)
    if signers:
        listed = ", ".join(f'"""{public(each)}"""' for each in signers)
        text = text.replace("[hub]\n", f"signers = [{listed}]\n\n[hub]\n", 1)
    return sign_site(text.encode(), key(by), "site.toml")
