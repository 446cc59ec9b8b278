# SPDX-License-Identifier: Apache-2.0
"""systemd's side: units and the process that makes them, signals, notifications, the journal."""
