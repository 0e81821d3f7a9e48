# SPDX-License-Identifier: Apache-2.0
"""The keeper's configuration: taken as written, or refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.roles import Role

GOOD = """
[keeper]
zone = "plant-a"
hub = "enterprise"
socket = "/run/bsfg/keeper.sock"
state_dir = "state"
run_dir = "run"
session_dir = "session"
status_dir = "status"
pki_dir = "pki"
[tpm]
tcti = "device:/dev/tpmrm0"
timeout_s = 20
[trust]
operators = "operators.pem"
image_key = "image.pem"
image_signatures = "/run/systemd/tpm2-pcr-signature.json"
[callers]
0 = ["administrator"]
990 = ["agent", "hub"]
[groups]
control = 991
"""


def load(folder: Path, text: str) -> KeeperConfig:
    """As from a file."""
    path = folder / "keeper.toml"
    path.write_text(text)
    return KeeperConfig.load(path)


def test_a_good_one_is_taken(tmp_path: Path) -> None:
    """Relative paths are beside the file; what is left out has its usual value."""
    config = load(tmp_path, GOOD)
    assert (config.zone, config.hub, config.is_hub) == ("plant-a", "enterprise", False)
    assert config.socket == Path("/run/bsfg/keeper.sock")
    assert config.pki_dir == tmp_path / "pki"
    assert (config.tpm.kind, config.tpm.timeout_s, config.tpm.simulated_boot) == ("tpm", 20.0, False)
    assert config.trust.boot_log == Path("/sys/kernel/security/tpm0/binary_bios_measurements")
    assert config.trust.built is None
    assert config.callers == {0: {Role.ADMINISTRATOR}, 990: {Role.AGENT, Role.HUB}}
    assert config.groups == {"control": 991}
    software = GOOD.replace("device:/dev/tpmrm0", "swtpm:port=1") + "\n"
    assert load(tmp_path, software).tpm.kind == "swtpm"
    simulated = load(tmp_path, software.replace("timeout_s = 20", "simulated_boot = true"))
    assert simulated.tpm.simulated_boot
    assert load(tmp_path, GOOD.replace("plant-a", "enterprise")).is_hub


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('zone = "plant-a"', 'zone = "Plant A"', "zone"),
        ('tcti = "device:/dev/tpmrm0"', "", "needs tcti"),
        ('"device:/dev/tpmrm0"', '""', "tcti"),
        ('"device:/dev/tpmrm0"', '"tabrmd:"', "tcti"),
        ("timeout_s = 20", 'timeout_s = "20"', "timeout_s"),
        ("timeout_s = 20", "timeout_s = 0", "timeout_s"),
        ("timeout_s = 20", "timeout_s = true", "timeout_s"),
        ("timeout_s = 20", "simulated_boot = true", "software TPM"),
        ("timeout_s = 20", "retry = 1", "'retry'"),
        ('[callers]\n0 = ["administrator"]\n990 = ["agent", "hub"]', "[callers]", "nobody"),
        ('990 = ["agent", "hub"]', '990 = ["root"]', "roles"),
        ('990 = ["agent", "hub"]', "990 = []", "990"),
        ('990 = ["agent", "hub"]', 'bsfg = ["agent"]', "bsfg"),
        ("control = 991", "agents = 991", "agents"),
        ("control = 991", 'control = "bsfg"', "control"),
        ("[trust]", "[trusts]", "trust"),
        ("[groups]", "[more]\n[groups]", "'more'"),
        ("[keeper]", "[keeper", ""),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    """A TPM is never guessed; a boot is never simulated on one of hardware."""
    assert old in GOOD
    with pytest.raises(RefusedError, match="bad_input") as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert place in caught.value.detail
    assert "keeper.toml" in caught.value.detail


def test_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(RefusedError, match=r"keeper\.toml"):
        KeeperConfig.load(tmp_path / "keeper.toml")
