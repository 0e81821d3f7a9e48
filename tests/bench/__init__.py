# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: the product beside its alternatives, interleaved in one run, as ratios with their spread.

``python -m tests.bench --help`` says what there is; ``README.md`` says how to read it.
"""
