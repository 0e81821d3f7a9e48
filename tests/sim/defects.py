# SPDX-License-Identifier: Apache-2.0
"""All defects that are planted to prove that the simulation finds them."""

from __future__ import annotations

from tests.sim.defects_sink import SINK_DEFECTS
from tests.sim.defects_source import SOURCE_DEFECTS
from tests.sim.planted import Defect

DEFECTS: tuple[Defect, ...] = (*SOURCE_DEFECTS, *SINK_DEFECTS)
"""Each has another name."""
