# SPDX-License-Identifier: Apache-2.0
"""Evidence: what a quarantined box shows its operators, and how it is checked far from the box."""
