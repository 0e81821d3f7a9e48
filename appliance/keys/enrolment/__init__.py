# SPDX-License-Identifier: Apache-2.0
"""Enrolment: how a box proves its TPM to a hub, and gets a certificate for its boundary key.

Pure: documents in, documents out. The same steps travel through the network (:mod:`appliance.boundary.trust`) and as
files on a stick. ``credential`` does with plain cryptography what TPM2_MakeCredential does, so a hub needs no TPM.
(DESIGN: keys and time.)
"""
