# SPDX-License-Identifier: Apache-2.0
"""Making the files of an environment may be killed anywhere and begun again: TPMs, keys, the hub's office."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.dev.boxes import hub_authority
from appliance.dev.environment import Environment
from appliance.dev.layout import ZONES, Layout
from appliance.dev.offline import OPERATORS, Offline
from appliance.dev.provision import open_environment, provision, write_document
from appliance.hub.enrolment.folder import EnrolmentFolder
from appliance.keys.certificates import certificate_pem
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.config import KeeperConfig

PROGRAM = """
import sys
from pathlib import Path
from appliance.dev.environment import Environment
from appliance.dev.provision import provision
provision(Environment.load(Path(sys.argv[1])))
"""
STEP_S = 0.25
ATTEMPTS = 40


def test_provisioning_is_killed_again_and_again(tmp_path: Path, root: Path) -> None:
    """Each attempt lives a little longer than the one before; what is there at the end is whole and fits together."""
    layout = Layout.at(tmp_path / "d")
    layout.root.mkdir()
    write_document(open_environment(layout))
    killed = 0
    for attempt in range(ATTEMPTS):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(layout.root)], cwd=root) as process:
            try:
                assert process.wait(STEP_S * (attempt + 1)) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    assert 0 < killed < ATTEMPTS
    environment = Environment.load(layout.root)
    provision(environment)
    offline, authority = Offline(layout.offline), certificate_pem(hub_authority(environment).certificate)
    for zone in ZONES:
        files = layout.zone(zone)
        assert KeeperConfig.load(files.keeper_config).zone == zone
        assert list(files.tpm_state.iterdir())
        assert PkiFolder(files.pki).hub_ca.read_bytes() == authority
    demands = EnrolmentFolder(layout.zone(ZONES[1]).office).demands()
    assert len(demands.operators) == len(OPERATORS)
    assert [key.public_numbers() for key in demands.image_keys] == [offline.image_key().public_key().public_numbers()]
    assert len(demands.vendors.authorities) == 2
    assert list(layout.root.rglob(".making-*")) == []
