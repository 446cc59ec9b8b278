# SPDX-License-Identifier: Apache-2.0
"""Where controllers come from: each source turns what it knows into candidates with their provenance."""
