# SPDX-License-Identifier: Apache-2.0
"""The hub's copy of the measurements: followed, kept when a bad file comes, and never replaced by an older one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.reasons import Reason
from appliance.hub.measurements import MeasurementsFile
from appliance.keys.attestation.measurements import Measurements
from tests.attesting import IMAGE_KEY, SimulatedTpm, measurements

STRANGER = rsa.generate_private_key(65537, 2048)


def opened(path: Path) -> MeasurementsFile:
    """As a hub opens it; two builders count here."""
    return MeasurementsFile(path, lambda: [STRANGER.public_key(), IMAGE_KEY.public_key()][1:])


def published(serial: int, minimum: int = 1) -> Measurements:
    """A file as a builder signs it."""
    return measurements(SimulatedTpm(), number=3, minimum=minimum, serial=serial)


def test_a_file_is_followed(tmp_path: Path) -> None:
    """From none to the first to the next."""
    path = tmp_path / "measurements.json"
    file = opened(path)
    assert file.current() is None
    for serial in (4, 5):
        path.write_bytes(published(serial).render())
        assert file.current() == published(serial)
        assert file.problem is None
    path.unlink()
    assert file.current() == published(5)


def test_no_older_and_no_foreign_file_is_taken_also_after_a_restart(tmp_path: Path) -> None:
    """What is in use stays, and it is said what is wrong."""
    path = tmp_path / "measurements.json"
    path.write_bytes(published(5, minimum=2).render())
    file = opened(path)
    good = file.current()
    assert good == published(5, minimum=2)
    for number, (data, reason) in enumerate(
        (
            (published(4, minimum=2).render(), Reason.BAD_MEASUREMENTS),
            (published(6, minimum=1).render(), Reason.BAD_MEASUREMENTS),
            (replace(published(6, 2), signature=b"").sign(STRANGER).render(), Reason.BAD_MEASUREMENTS),
            (b"{}\n", Reason.BAD_DOCUMENT),
            (b"", Reason.BAD_DOCUMENT),
        )
    ):
        path.unlink()
        path.write_bytes(data)
        assert file.current() == good, number
        assert file.problem is not None
        assert file.problem.reason is reason
        fresh = opened(path)
        assert fresh.current() is None
    path.unlink()
    path.write_bytes(published(5, minimum=2).render())
    assert file.current() == good
    assert file.problem is None


def test_what_was_seen_cannot_be_forgotten_by_a_damaged_file(tmp_path: Path) -> None:
    """Then no file is taken until somebody looks."""
    path = tmp_path / "measurements.json"
    path.write_bytes(published(5).render())
    opened(path).current()
    (tmp_path / "measurements.json.seen").write_bytes(b"x")
    file = opened(path)
    assert file.current() is None
    assert file.problem is not None
    assert file.problem.reason is Reason.BAD_INPUT
