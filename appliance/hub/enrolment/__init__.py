# SPDX-License-Identifier: Apache-2.0
"""The hub's enrolment office: what it knows of boxes, who signs for it, and what operators decide.

``store`` keeps what was decided, ``authority`` signs device CAs, ``office`` joins both with the pure rules of
:mod:`appliance.keys.enrolment`, ``service`` serves boxes through the network, ``setup`` makes a new hub.
"""
