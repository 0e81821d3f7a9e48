# SPDX-License-Identifier: Apache-2.0
"""The pages about keys name every format, every PCR and every role that the code has."""

from __future__ import annotations

from pathlib import Path

from appliance.keys.keeper.roles import Operation, Role
from appliance.keys.tpm.policy import BOUND_PCRS, COUNTER_INDEX, HELD_PCR, IMAGE_PCR, RELEASE_INDICES
from tools import generate_docs


def test_every_format_is_explained(root: Path) -> None:
    """In the page of formats, and no format that nobody reads."""
    text = (root / "docs/security/formats.md").read_text("utf-8")
    known = {name.strip("`") for name, _, _ in generate_docs._formats()}
    assert len(known) >= 15
    assert {name for name in known if name not in text} == set()


def test_places_and_roles_are_generated() -> None:
    """The page of figures has all of them."""
    text = generate_docs.render("keys.md")
    wanted = [f"{index:#010x}" for index in (COUNTER_INDEX, *RELEASE_INDICES)]
    wanted += [f"| PCR {pcr} |" for pcr in (*BOUND_PCRS, HELD_PCR, IMAGE_PCR)]
    wanted += [f"`{role}`" for role in Role]
    wanted += [f"`{operation}`" for operation in Operation if operation not in {"session", "sign", "seal", "unseal"}]
    assert [each for each in wanted if each not in text] == []


def test_the_pages_say_what_is_in_ram(root: Path) -> None:
    """And what root, a reset and the bus could do: an auditor looks for these."""
    text = (root / "docs/security/keys.md").read_text("utf-8")
    for title in ("What is where", "Sessions", "What root on the box can do"):
        assert f"## {title}" in text
    for words in ("a reset of the TPM can do", "an attack on the bus can do", "**RAM**", "10 minutes", "Not shown"):
        assert words in text
