# SPDX-License-Identifier: Apache-2.0
"""The daemon: it joins sources, plan and units, and owns what is known of each controller."""
