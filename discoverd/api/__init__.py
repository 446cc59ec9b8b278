# SPDX-License-Identifier: Apache-2.0
"""The D-Bus API, org.nvmexpress.discoverd1: a process of its own, and two small ones that do for it what takes root."""
