# SPDX-License-Identifier: Apache-2.0
"""The boundary key in a TPM 2.0: its policy, its provisioning, its use, its latch and its release.

``public`` and ``policy`` are pure: they compute what the TPM computes, so that an operator and a hub can check a box
without one. ``device`` is the only module that talks to a TPM; ``provisioning`` and ``boundary_key`` stand on it.
(DESIGN: keys and time. TPM 2.0 Library Specification, parts 1 to 3.)
"""
