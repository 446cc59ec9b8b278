# SPDX-License-Identifier: Apache-2.0
"""The system bus, for all that talk to it. Only ``client`` imports a D-Bus library: the API's process has another."""
