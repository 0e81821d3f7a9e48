# SPDX-License-Identifier: Apache-2.0
"""A box at work: what its services need at boot, made from the site configuration; and how ready it is."""
