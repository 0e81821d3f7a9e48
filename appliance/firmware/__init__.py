# SPDX-License-Identifier: Apache-2.0
"""The firmware of a box: Secure Boot keys, expected measurements, and whether its settings are those of its profile."""
