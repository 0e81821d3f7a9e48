# SPDX-License-Identifier: Apache-2.0
"""The commands of operators: they work without a TPM, and without the library for one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.cli.main import cli
from appliance.keys.operators import load_operator_key
from appliance.keys.tpm.identity import BoundaryIdentity, load_p256
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef
from appliance.keys.tpm.public import BOUNDARY, Name, ecdsa_public_of
from tests.releases import Case
from tests.tpm import image_key, people


def test_a_new_key_is_asked_a_passphrase_for(tmp_path: Path) -> None:
    """Twice; and the key opens with it."""
    file = tmp_path / "alice.pem"
    words = "correct horse battery"
    outcome = CliRunner().invoke(cli, ["operator", "keys", "new", str(file)], input=f"{words}\n{words}\n")
    assert outcome.exit_code == 0, outcome.output
    public = load_p256((tmp_path / "alice.pem.pub").read_bytes())
    assert load_operator_key(file, words).public_key() == public
    (tmp_path / "words").write_text(words + "\n")
    again = ["operator", "keys", "new", str(file), "--passphrase-file", str(tmp_path / "words")]
    outcome = CliRunner().invoke(cli, again)
    assert outcome.exit_code == 2
    assert "bad_input" in outcome.output


def test_the_policy_is_shown_or_the_file_refused(tmp_path: Path) -> None:
    """A key with another policy than its file says is not shown as if it had it."""
    _, operators = people(2)
    policy = BoundaryPolicy(DeviceRef(b"\x22" * 32), operators, image_key().public_key())
    pcrs = {pcr: bytes([pcr]) * 32 for pcr in BOUND_PCRS}
    auth_policy = policy.auth_policy(policy.x(3, pcrs))
    public = ecdsa_public_of(ec.generate_private_key(ec.SECP256R1()).public_key(), BOUNDARY, auth_policy)
    text = BoundaryIdentity(policy, 3, pcrs, public, b"\0\0", Name(bytes(34))).render()
    file = tmp_path / "boundary-key.json"
    file.write_bytes(text)
    outcome = CliRunner().invoke(cli, ["policy", "show", str(file), "--output", "json"])
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.output)["authPolicy"] == auth_policy.hex()
    file.write_bytes(text.replace(b'"birth_counter":"3"', b'"birth_counter":"4"'))
    outcome = CliRunner().invoke(cli, ["policy", "show", str(file)])
    assert outcome.exit_code == 1
    assert "tpm_altered" in outcome.output


def test_the_policy_of_a_box_file_is_shown(tmp_path: Path) -> None:
    """It is the same as that of the key file."""
    box = Case.make().box
    file = tmp_path / "box.json"
    file.write_bytes(box.render())
    outcome = CliRunner().invoke(cli, ["policy", "show", str(file), "--output", "json"])
    assert outcome.exit_code == 0, outcome.output
    shown = json.loads(outcome.output)
    assert shown["authPolicy"] == box.birth.auth_policy.hex()
    assert shown["birth counter"] == "6"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not JSON", b'{"format":"bsfg-release-1"}\n', b"[" * 100_000])
def test_a_file_that_is_no_key_file_is_called_that(content: bytes, tmp_path: Path) -> None:
    """Nothing is wrong with the box then."""
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    outcome = CliRunner().invoke(cli, ["policy", "show", str(file)])
    assert outcome.exit_code == 2
    assert "bad_input" in outcome.output
    assert "enrolled again" not in outcome.output


def test_operators_need_no_tpm_library(root: Path) -> None:
    """What they sign and check with does not load it."""
    modules = "appliance.keys.release, appliance.cli.policy, appliance.cli.release, appliance.cli.release_text"
    code = f"import sys, {modules}; sys.exit('tpm2_pytss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
