# SPDX-License-Identifier: Apache-2.0
"""Virtual machines with Secure Boot and a software TPM, driven by tests (``tests/vm``) and by ``python -m tools.vm``.

Nothing here needs root, loop devices, device mapper or KVM on the host. No port of the host is forwarded into a guest.
"""
