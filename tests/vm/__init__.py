# SPDX-License-Identifier: Apache-2.0
"""The image in virtual machines: what it does, and what it refuses. ``make test-vm``; one machine at a time."""
