# SPDX-License-Identifier: Apache-2.0
"""What is decided about each controller, and why: pure functions of what is known, without a clock and without I/O."""
