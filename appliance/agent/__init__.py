# SPDX-License-Identifier: Apache-2.0
"""The BSFG agent of a plant zone: local intake, and the crossings it dials out for. Nothing listens on the uplink."""
