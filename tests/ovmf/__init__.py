# SPDX-License-Identifier: Apache-2.0
"""Tests that ask OVMF, the real firmware of virtual machines, under QEMU without an operating system."""
