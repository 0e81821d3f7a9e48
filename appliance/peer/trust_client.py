# SPDX-License-Identifier: Apache-2.0
"""``bsfg.v1.TrustService`` on the wire, the box's side: a :class:`~appliance.boundary.trust.TrustPort` over HTTP/2.

The hub's certificate must chain to the hub CA that the box was given, and name the hub. **Its dates are not checked**:
the box may not know the time yet, and asking for it is what this service is for. An ended certificate gains an attacker
little here: TLS keeps what is said private, and every document proves itself.

A box calls every few minutes, so each call makes its own connection and keeps none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio
from google.protobuf.message import Message

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.proto.bsfg.v1 import trust_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.boundary.trust import AttestationAnswer
from appliance.peer.dial import HttpProxy, open_tcp
from appliance.peer.faults import error_from_json
from appliance.peer.frames import quiet_frames
from appliance.peer.link import Headers, Link, LinkLimits, Reply, stream_error
from appliance.peer.tls import ALPN, NO_CHECK_TIME
from appliance.peer.trust_server import ATTEST, BEGIN_ATTESTATION, ENROL, GET_TIME, TRUST_SERVICE
from appliance.peer.wire import parse_binary

M = TypeVar("M", bound=Message)

_PROTO: Final = "application/proto"
_LIMITS: Final = LinkLimits(calls=1, window_bytes=1024 * 1024)


def trust_client_context(hub_ca: Path) -> ssl.SSLContext:
    """TLS 1.3 that trusts the hub CA alone, whatever the date, and shows no certificate.

    :raises OSError: the file cannot be read, or is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.load_verify_locations(hub_ca)
    context.set_alpn_protocols([ALPN])
    return context


@dataclass(frozen=True, slots=True)
class TrustClient:
    """A hub's trust service over the network.

    :param hub: the zone whose name the certificate must have. :param tls: called for every connection.
    :param connect_s: time for connection and handshake. :param call_s: time for a call.
    """

    hub: ZoneId
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]
    connect_s: float = 10.0
    call_s: float = 30.0
    proxy: HttpProxy | None = None

    async def get_time(self, nonce: bytes) -> bytes:
        """See :class:`~appliance.boundary.trust.TrustPort`."""
        answer = await self._call(GET_TIME, pb.GetTimeRequest(nonce=nonce), pb.GetTimeResponse)
        return answer.token

    async def enrol(self, document: bytes) -> bytes:
        """See :class:`~appliance.boundary.trust.TrustPort`."""
        answer = await self._call(ENROL, pb.EnrolRequest(document=document), pb.EnrolResponse)
        return answer.document

    async def begin_attestation(self, zone: ZoneId) -> bytes:
        """See :class:`~appliance.boundary.trust.TrustPort`."""
        request = pb.BeginAttestationRequest(zone=zone)
        return (await self._call(BEGIN_ATTESTATION, request, pb.BeginAttestationResponse)).nonce

    async def attest(self, zone: ZoneId, evidence: bytes) -> AttestationAnswer:
        """See :class:`~appliance.boundary.trust.TrustPort`."""
        request = pb.AttestRequest(zone=zone, evidence=evidence)
        answer = await self._call(ATTEST, request, pb.AttestResponse)
        return AttestationAnswer(answer.accepted, tuple(answer.findings), answer.valid_for_s)

    async def _call(self, method: str, request: Message, answer: type[M]) -> M:
        reply = await self._request(method, request.SerializeToString())
        if reply.status != 200:
            raise error_from_json(reply.status, reply.body)
        if reply.content_type != _PROTO:
            raise UnavailableError(Reason.PEER_FAULT, f"an answer in {reply.content_type[:64]!r}")
        try:
            return parse_binary(answer, reply.body)
        except RefusedError as error:
            raise UnavailableError(Reason.PEER_FAULT, f"{error.reason}: {error.detail}") from error

    async def _request(self, method: str, body: bytes) -> Reply:
        """Connect, call, hang up."""
        quiet_frames()
        headers: Headers = [
            ("content-type", _PROTO),
            ("connect-protocol-version", "1"),
            ("connect-timeout-ms", str(int(self.call_s * 1000))),
        ]
        link = Link(await self._dial(), identity_of(self.hub), _LIMITS)
        result: Reply | BsfgError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            try:
                await link.hello(self.connect_s)
                result = await link.call(f"/{TRUST_SERVICE}/{method}", headers, body, self.call_s)
            except BsfgError as error:  # raised below: a nursery would wrap it
                result = error
            nursery.cancel_scope.cancel()
        if isinstance(result, BsfgError):
            raise result
        return result

    async def _dial(self) -> trio.SSLStream[trio.SocketStream]:
        with trio.move_on_after(self.connect_s):
            return await self._handshake()
        raise UnavailableError(Reason.LINK_DOWN, f"no connection within {self.connect_s:g} s")

    async def _handshake(self) -> trio.SSLStream[trio.SocketStream]:
        try:
            context = self.tls()
        except OSError as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"the hub CA's certificate: {error}") from error
        tcp = await open_tcp(self.host, self.port, self.proxy)
        try:
            tls = trio.SSLStream(tcp, context, server_hostname=identity_of(self.hub), https_compatible=True)
            await tls.do_handshake()
            if tls.selected_alpn_protocol() != ALPN:
                raise UnavailableError(Reason.PEER_FAULT, "the hub does not speak HTTP/2")
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(tcp)
            raise stream_error(error) from error
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise
        return tls
