# SPDX-License-Identifier: Apache-2.0
"""``bsfg.v1.TrustService`` on the wire, the hub's side: for boxes that have no certificate yet, or no valid one.

TLS 1.3 shows the hub's certificate and asks for none. Whoever can reach the address may call, so what a call may cost
is bounded: body, time, calls at once, connections and calls per address. What is said is proven by the documents.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import parse_zone
from appliance.boundary.proto.bsfg.v1 import trust_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.boundary.trust import TrustPort
from appliance.peer.audit import OK, AuditHook, log_audit
from appliance.peer.codec import bad_request
from appliance.peer.connect import Answer, Caller, ConnectApp, Method, Scope
from appliance.peer.connection import TlsConnection, http_config
from appliance.peer.limits import CallLimits, ConnectionLimits
from appliance.peer.rates import AddressRates, network_of
from appliance.peer.server import AcceptedStream, Status, listen
from appliance.peer.tls import ALPN

TRUST_SERVICE: Final = "bsfg.v1.TrustService"
GET_TIME: Final = "GetTime"
ENROL: Final = "Enrol"
BEGIN_ATTESTATION: Final = "BeginAttestation"
ATTEST: Final = "Attest"

NONCE_BYTES: Final = range(16, 33)
TRUST_BODY_BYTES: Final = 2 * 1024 * 1024
"""Evidence with the longest logs, in JSON."""
TRUST_CALLS: Final = CallLimits(
    body_bytes=TRUST_BODY_BYTES, json_tokens=64, call_s=30.0, held_bytes=32 * 1024 * 1024, calls=64
)
TRUST_CONNECTIONS: Final = ConnectionLimits(
    connections=256, idle_s=20.0, streams=8, window_bytes=2 * TRUST_BODY_BYTES, resets=20, resets_per_s=1.0
)


@dataclass(frozen=True, slots=True)
class AddressLimits:
    """What one address may do. A box asks three times in five minutes; a site may have hundreds behind one address."""

    connections: int = 64
    """At once."""
    burst: float = 200.0
    """New connections, and as many calls, in a moment."""
    per_s: float = 20.0
    """And each from then on."""


@dataclass(frozen=True, slots=True)
class TrustServerConfig:
    """How boxes are served. ``tls`` is called for every connection, so renewed certificates are used."""

    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]
    audit: AuditHook = log_audit
    calls: CallLimits = TRUST_CALLS
    connections: ConnectionLimits = TRUST_CONNECTIONS
    addresses: AddressLimits = field(default=AddressLimits())


def trust_server_context(session: Path) -> ssl.SSLContext:
    """TLS 1.3 with the hub's session and no client certificate.

    :param session: PEM: key, session certificate, device CA certificate, in one file.
    :raises OSError: it cannot be read, or is not that.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_NONE
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(session)
    context.set_alpn_protocols([ALPN])
    return context


async def serve_trust(
    service: TrustPort, config: TrustServerConfig, *, task_status: Status = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve boxes until cancelled; reports the port it listens on.

    :raises RefusedError: ``bad_input`` when the address cannot be listened on.
    """
    stopping = trio.Event()
    http = http_config()
    arrivals, calls = (AddressRates(config.addresses.burst, config.addresses.per_s) for _ in range(2))
    open_from: Counter[str] = Counter()

    def authenticate(scope: Scope, _headers: Mapping[bytes, bytes]) -> Caller[str]:
        address = network_of(scope["client"][0])
        if not calls.spend(address):
            raise UnavailableError(Reason.BUSY, f"{address} asks more than {config.addresses.per_s:g} times a second")
        return Caller(address, address)

    app = ConnectApp(
        trust_methods(service),
        authenticate,
        limits=config.calls,
        audit=config.audit,
        stopping=stopping,
        service=TRUST_SERVICE,
    )

    async def handle(stream: AcceptedStream) -> None:
        address = network_of(stream.socket.getpeername()[0])
        if open_from[address] >= config.addresses.connections or not arrivals.spend(address):
            await trio.aclose_forcefully(stream)
            return
        open_from[address] += 1
        try:
            tls = trio.SSLStream(stream, config.tls(), server_side=True, https_compatible=True)
            await TlsConnection(app, http, config.connections, stopping, tls).run()
        finally:
            open_from[address] -= 1
            if not open_from[address]:
                del open_from[address]

    await listen(config.host, config.port, handle, config.connections, stopping, task_status)


def trust_methods(service: TrustPort) -> dict[str, Method[str]]:
    """What a box may call; the caller is an address, and decides nothing."""

    async def get_time(_caller: str, request: pb.GetTimeRequest) -> Answer:
        if len(request.nonce) not in NONCE_BYTES:
            raise bad_request(f"a nonce of {len(request.nonce)} bytes; {NONCE_BYTES.start} to {NONCE_BYTES.stop - 1}")
        return Answer(pb.GetTimeResponse(token=await service.get_time(request.nonce)))

    async def enrol(_caller: str, request: pb.EnrolRequest) -> Answer:
        return Answer(pb.EnrolResponse(document=await service.enrol(request.document)))

    async def begin_attestation(_caller: str, request: pb.BeginAttestationRequest) -> Answer:
        return Answer(pb.BeginAttestationResponse(nonce=await service.begin_attestation(parse_zone(request.zone))))

    async def attest(_caller: str, request: pb.AttestRequest) -> Answer:
        found = await service.attest(parse_zone(request.zone), request.evidence)
        answer = pb.AttestResponse(accepted=found.accepted, findings=found.findings, valid_for_s=found.valid_for_s)
        return Answer(answer, outcome=OK if found.accepted else Reason.ATTESTATION_FAILED)

    return {
        GET_TIME: Method(pb.GetTimeRequest, get_time),
        ENROL: Method(pb.EnrolRequest, enrol),
        BEGIN_ATTESTATION: Method(pb.BeginAttestationRequest, begin_attestation),
        ATTEST: Method(pb.AttestRequest, attest),
    }
