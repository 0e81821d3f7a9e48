# SPDX-License-Identifier: Apache-2.0
"""The folder with a node's certificates (``pki_dir``).

Public, and all that a node with a keeper has::

    hub-ca.pem        the hub CA's certificate
    zones/<zone>.pem  the device CA certificates of each enrolled zone
    denied.json       device CA certificates that prove no connection any more
    enrolled-box.json this box as it was enrolled: its keys and what they were born under
    measurements.json what the images of the builder lead to, if the box was given that

Private, with software keys alone::

    boundary.pem      this zone's boundary key and its device CA certificate
    session.pem       the session: key, certificate, device CA certificate; replaced whole
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.boundary.names import ZoneId


@dataclass(frozen=True, slots=True)
class PkiFolder:
    """Where a node's keys and certificates lie."""

    path: Path

    @property
    def hub_ca(self) -> Path:
        """The certificate both sides trust."""
        return self.path / "hub-ca.pem"

    @property
    def zones(self) -> Path:
        """The folder of the enrolled zones' device CA certificates."""
        return self.path / "zones"

    def zone(self, zone: ZoneId) -> Path:
        """The device CA certificates of one zone; the newest one last."""
        return self.zones / f"{zone}.pem"

    @property
    def denied(self) -> Path:
        """The deny list; not there: nobody is denied."""
        return self.path / "denied.json"

    @property
    def enrolled_box(self) -> Path:
        """This box at its enrolment (:class:`~appliance.keys.enrolled_box.EnrolledBox`); the keeper writes it."""
        return self.path / "enrolled-box.json"

    @property
    def measurements(self) -> Path:
        """Reference measurements; anybody may put them there, for they count by their signature alone."""
        return self.path / "measurements.json"

    @property
    def boundary(self) -> Path:
        """The boundary key; private."""
        return self.path / "boundary.pem"

    @property
    def session(self) -> Path:
        """The session certificate with its key and chain, in one file that is replaced whole; private."""
        return self.path / "session.pem"
