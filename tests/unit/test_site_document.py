# SPDX-License-Identifier: Apache-2.0
"""The signature of a site configuration, attacked: no document but the signed one is taken, byte for byte."""

from __future__ import annotations

import base64
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.operators import ORDER, sign
from appliance.site.document import DOMAIN, MARK, open_site, sign_site, signer_of, unsigned
from appliance.site.errors import BadSiteError
from appliance.site.store import Outcome, SiteStore
from tests import sites

FLIPS = 160


def flips(good: bytes) -> Iterator[bytes]:
    """One bit each, all over the document, and every kind of place in it."""
    chosen = random.Random(7)
    at = good.rfind(MARK)
    places = chosen.sample(range(len(good)), FLIPS - 40) + chosen.sample(range(at, len(good)), 40)
    for place in places:
        mutant = bytearray(good)
        mutant[place] ^= 1 << chosen.randrange(8)
        yield bytes(mutant)


def cuts(good: bytes) -> Iterator[bytes]:
    """Truncated, at the end and at the beginning."""
    for size in (1, 2, 10, 60, 100, 200, 400, len(good) // 2, len(good) - 1, len(good)):
        yield good[:-size]
        yield good[size:]


def additions(good: bytes) -> Iterator[bytes]:
    """Lines and tables before, in between and behind."""
    body, tail = unsigned(good), good[len(unsigned(good)) :]
    lines = (
        b"\n",
        b"# a comment\n",
        b" ",
        b"[site]\nversion = 9\n",
        b'[hub]\nhost = "evil.example"\n',
        b"[console]\n",
        b"\0",
    )
    for line in lines:
        yield good + line
        yield body + line + tail
        yield line + good
    yield good + tail
    yield body + tail + tail
    yield body + body + tail
    yield good + good
    yield good.replace(b"\n", b"\r\n")
    yield body.replace(b"\n", b"\r\n") + tail
    yield body + tail.replace(b"\n", b"\r\n")
    yield b"\xef\xbb\xbf" + good
    yield body + tail.replace(b"[signature]", b"[ signature ]")
    yield body + tail.replace(b"signer = ", b"signer  = ")
    yield body + tail.replace(b"value = ", b"'value' = ")
    yield body + tail + b'other = "x"\n'
    fields = tail.split(b"\n", 1)[1]
    key, value = fields[: fields.index(b"value =")], fields[fields.index(b"value =") :]
    yield body + MARK + value + key  # the other order
    yield body + MARK + key
    yield body + MARK + value
    yield body + MARK
    yield body
    yield body[:-1] + tail


def foreign_signatures(good: bytes) -> Iterator[bytes]:
    """Signatures of other texts, in other forms, under other keys."""
    body = unsigned(good)
    key, other = sites.key("signer"), sites.key("stranger")
    signer, stranger = sites.public("signer"), sites.public("stranger")
    mine = sign(key, DOMAIN + body)
    r, s = decode_dss_signature(mine)
    yield body + sites.ending(signer, encode_dss_signature(r, ORDER - s))  # the second form of the same signature
    yield body + sites.ending(signer, encode_dss_signature(s, r))
    yield body + sites.ending(signer, encode_dss_signature(r, 0))
    yield body + sites.ending(signer, encode_dss_signature(0, 0))
    yield body + sites.ending(signer, mine + b"\0")
    yield body + sites.ending(signer, b"")
    yield body + sites.ending(signer, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    yield body + sites.ending(signer, sign(key, body))  # without the domain
    yield body + sites.ending(signer, sign(key, b"bsfg voucher\0" + body))  # a document of another kind
    yield body + sites.ending(signer, sign(key, DOMAIN + body + b"\n"))
    yield body + sites.ending(signer, sign(key, DOMAIN + unsigned(sites.signed(2))))  # swapped with another document's
    yield unsigned(sites.signed(2)) + sites.ending(signer, mine)
    yield body + sites.ending(stranger, mine)  # another key claims it
    yield body + sites.ending(signer, sign(other, DOMAIN + body))  # another key, the signer's name
    yield body + sites.ending(signer, key.sign(DOMAIN + body, ec.ECDSA(hashes.SHA512())))
    yield body + sites.ending(signer + stranger, mine)
    yield body + sites.ending(signer.replace("\n", "\n\n", 1), mine)
    p384 = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = p384.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    yield body + sites.ending(pem, p384.sign(DOMAIN + body, ec.ECDSA(hashes.SHA256())))


def taken_only_by_rule(good: bytes) -> Iterator[bytes]:
    """Well signed, and not for this box: strangers, versions of the past, wrong documents under a good signature."""
    yield sites.signed(9, by="stranger")
    yield sites.signed(9, by="operator 1")
    yield sites.signed(9, by="stranger", signers=("signer",))
    for version in (1, 2, 3, 4):
        yield sites.signed(version, name="two-nics")
    body = unsigned(good)
    for wrong in (
        body.replace(b"[dns]", b"[dnss]"),
        body + b"[site]\n",
        body + b"[signature]\nx = 1\n",
        b"\n",
        b"x = 1\n",
    ):
        yield wrong + sites.ending(sites.public("signer"), sign(sites.key("signer"), DOMAIN + wrong))


def test_no_mutant_is_taken(tmp_path: Path) -> None:
    """More than 200, each refused with a reason, none changes what is in force; the original is taken in between."""
    store = SiteStore(tmp_path / "site")
    assert store.offer(sites.signed(4), "good").outcome is Outcome.FIRST
    good = sites.signed(5)
    makers = (flips, cuts, additions, foreign_signatures, taken_only_by_rule)
    mutants = {mutant for make in makers for mutant in make(good)} - {good, sites.signed(4)}
    assert len(mutants) >= 200
    before = (tmp_path / "site/site.toml").read_bytes()
    reasons = set()
    for mutant in mutants:
        with pytest.raises(BsfgError) as caught:
            store.offer(mutant, "mutant")
        reasons.add(caught.value.reason)
        refusal = store.refusal()
        assert refusal is not None
        assert refusal["reason"] == caught.value.reason
        assert (tmp_path / "site/site.toml").read_bytes() == before
    assert reasons == {Reason.SITE_UNSIGNED, Reason.SITE_FOREIGN, Reason.SITE_ROLLBACK, Reason.BAD_SITE}
    assert store.offer(good, "good").outcome is Outcome.CHANGED
    assert store.refusal() is None


def test_a_signed_document_is_one_toml_document() -> None:
    """And says the same as before, and a table more."""
    good = sites.signed()
    whole, body = tomllib.loads(good.decode()), tomllib.loads(unsigned(good).decode())
    assert whole.pop("signature").keys() == {"signer", "value"}
    assert whole == body
    assert open_site(good, "x").signer == sites.public("signer") == signer_of(good, "x")


def test_what_is_signed_is_the_whole_text_before() -> None:
    """The statement of the page, spelt out."""
    good = sites.signed()
    table = tomllib.loads(good.decode())["signature"]
    body = good[: good.index(b"[signature]\n")]
    sites.key("signer").public_key().verify(
        base64.b64decode(table["value"]), b"bsfg site\0" + body, ec.ECDSA(hashes.SHA256())
    )


def test_signing_again_replaces_the_signature() -> None:
    """The text stays; a last line without its end gets one."""
    good = sites.signed()
    other = sign_site(good, sites.key("other"), "x")
    assert unsigned(other) == unsigned(good)
    assert open_site(other, "x").signer == sites.public("other")
    assert unsigned(sign_site(unsigned(good)[:-1], sites.key("other"), "x")) == unsigned(good)


def test_a_wrong_document_is_not_signed() -> None:
    """Whoever signs hears of it, not the box."""
    with pytest.raises(BadSiteError, match=r"x:\d+: \[dns\]"):
        sign_site(sites.example("single-site").replace('"192.0.2.53"', '"resolver"').encode(), sites.key("signer"), "x")


def test_a_signature_inside_a_text_is_none() -> None:
    """The words of the last table may stand in a string; the last line of that form is the signature's."""
    text = sites.example("single-site").replace('name = "Pump house 4"', 'name = """\n[signature]\n"""')
    with pytest.raises(DeniedError) as caught:
        open_site(text.encode(), "x")
    assert caught.value.reason is Reason.SITE_UNSIGNED
