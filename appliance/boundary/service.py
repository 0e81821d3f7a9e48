# SPDX-License-Identifier: Apache-2.0
"""A whole node as its peers see it: source and sink behind one interface."""

from __future__ import annotations

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Countersigned, FetchRequest, Page, PageAnswer, Receipt, Signature
from appliance.boundary.ports import SinkPort, SourcePort


class Boundary:
    """Implements :class:`~appliance.boundary.ports.BoundaryPort` with a source and a sink."""

    def __init__(self, source: SourcePort, sink: SinkPort) -> None:
        self._source = source
        self._sink = sink

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """See the port."""
        return await self._source.fetch_page(reader, request)

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """See the port."""
        return await self._source.confirm_receipt(reader, receipt)

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """See the port."""
        return await self._sink.append_page(sender, page, countersigned)
