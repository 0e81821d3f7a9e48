# SPDX-License-Identifier: Apache-2.0
"""AppendFact for the machines of the plant: HTTPS on the plant interface, with a certificate of the local CA.

The same contract as on loopback, and the same tokens; ``curl`` with HTTP/1.1 or HTTP/2 does. TLS 1.3 alone is spoken,
and nobody is served without it.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.ports import ProducerPort
from appliance.boundary.reasons import Reason
from appliance.peer.connection import TlsConnection, http_config
from appliance.peer.server import AcceptedStream, ProducerServerConfig, Status, listen, producer_app
from appliance.peer.tls import ALPN

_log = logging.getLogger(__name__)

HTTP_1: Final = "http/1.1"


class PlantConnection(TlsConnection):
    """A connection of a machine of the plant; one that offers no protocol speaks HTTP/1.1."""

    protocols = (ALPN, HTTP_1, None)

    async def _serve(self) -> None:
        if await self._handshake():
            await self._serve_http(self.chosen_protocol())


@dataclass(slots=True)
class PlantTls:
    """The context for new connections; made anew when the file was replaced, so a rotation drops nobody.

    :param file: PEM of key, certificate and local CA. A file that cannot be read changes nothing, and the log says so.
    """

    file: Path
    _stamp: tuple[int, ...] = ()
    _context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        """The context. :raises RefusedError: ``bad_input``: the file was never good."""
        stamp = self._look()
        if self._context is None or stamp != self._stamp:
            try:
                self._context = plant_context(self.file)
            except OSError as error:
                if self._context is None:
                    raise RefusedError(Reason.BAD_INPUT, f"{self.file}: {error}") from error
                _log.error("the certificate stays as it was: %s: %s", self.file, error)
            self._stamp = stamp
        return self._context

    def _look(self) -> tuple[int, ...]:
        try:
            state = self.file.stat()
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_size, state.st_ino


def plant_context(file: Path) -> ssl.SSLContext:
    """TLS 1.3 with the server's certificate, and no client certificates. :raises OSError: the file is not good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    context.set_alpn_protocols([ALPN, HTTP_1])
    return context


async def serve_plant(
    service: ProducerPort,
    config: ProducerServerConfig,
    tls: PlantTls,
    *,
    task_status: Status = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve AppendFact to the plant until cancelled; reports the port it listens on.

    :param config: ``host`` is the address of the plant interface.
    :raises RefusedError: ``bad_input``: every address at once, one that cannot be listened on, or no certificate.
    """
    if ipaddress.ip_address(config.host).is_unspecified:
        raise RefusedError(Reason.BAD_INPUT, f"{config.host}: the plant interface has an address of its own")
    tls()
    stopping = trio.Event()
    http, app = http_config(), producer_app(service, config, stopping)

    async def handle(stream: AcceptedStream) -> None:
        secured = trio.SSLStream(stream, tls(), server_side=True, https_compatible=True)
        await PlantConnection(app, http, config.connections, stopping, secured).run()

    await listen(config.host, config.port, handle, config.connections, stopping, task_status)
