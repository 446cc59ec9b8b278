# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers that answer anything at all, or change all the time, and what must never come of it.

`python -m tests.fuzz` runs the first, `python -m tests.fuzz.histories` the second.
"""
