# SPDX-License-Identifier: Apache-2.0
"""A discovery controller for NVMe/TCP hosts, to test them against: a fabric of them in one process, see README.md.

Standard library only. Modules import each other relatively, because the lab runs them as the package `cdc`.
"""
