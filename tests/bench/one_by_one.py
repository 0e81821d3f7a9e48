# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.one_by_one --config FILE``: the real agent, except that each page carries one fact.

What the same code, the same durability and the same wire cost without pages: the comparison the pages are for.
"""

from __future__ import annotations

from appliance.agent.agent import Agent
from appliance.boundary.crossing import Crossing
from appliance.node.process import main
from appliance.peer.client import PeerClient


class OneByOneAgent(Agent):
    """An agent whose pages hold one fact."""

    def _make_crossings(self, peer: PeerClient) -> list[tuple[str, Crossing]]:
        crossings = super()._make_crossings(peer)
        for _, crossing in crossings:
            crossing._page_facts = 1
        return crossings


if __name__ == "__main__":
    main("agent", OneByOneAgent)
