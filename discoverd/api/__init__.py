# SPDX-License-Identifier: Apache-2.0
"""The D-Bus API, org.nvmexpress.discoverd1: a process of its own, and two small ones that do for it what takes root."""

# So long a piece of work is; others have their turns of the loop in between, callers above all.
TURN_SECONDS = 0.005
