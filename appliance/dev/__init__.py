# SPDX-License-Identifier: Apache-2.0
"""The development environment: two zones on loopback, their files in one folder, run by a supervisor.

Everything in it is the product's own except what is named *simulated*: the TPM of each zone (software), its vendor and
the boot whose measurements it holds, the boundary link (a TCP proxy that can be cut), the people (operators, whose keys
are files) and the supervisor (which restarts processes as systemd would).
"""
