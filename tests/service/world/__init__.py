# SPDX-License-Identifier: Apache-2.0
"""Two whole zones as real processes, with producers and readers around them: what the fault tests are played on.

The zones are judged by what producers were told and what readers found (``tests/judge``); what the product says about
itself is used to wait, never to judge.
"""
