# SPDX-License-Identifier: Apache-2.0
"""The boundary contract on the wire: Connect server and client over HTTP/2, and who the other side is.

From the inside out: ``codec`` and ``faults`` turn messages and errors into the boundary's own types and back;
``methods`` is the table of operations of a server, ``stub`` the same of a client; ``connect`` is the Connect protocol
over ASGI; ``http2``, ``connection`` and ``server`` put it on hypercorn; ``link`` and ``client`` are the calling side;
``identity`` and ``tls`` say who may speak at all.
"""
