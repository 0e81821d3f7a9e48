# SPDX-License-Identifier: Apache-2.0
"""Attestation: what a box runs, as its TPM states it, and whether that is what the hub expects.

``evidence`` is what a box sends; ``quote`` checks that its TPM said so; ``firmware_log`` and ``runtime_log`` replay how
the PCRs came to be; ``measurements`` is what the image builder published; ``verdict`` compares, and says in words what
differs. All of it is pure and stands on ``cryptography`` alone: a hub needs no TPM.
"""
