# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers that answer anything at all, and what must never come of it. `python -m tests.fuzz` runs it."""
