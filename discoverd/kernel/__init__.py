# SPDX-License-Identifier: Apache-2.0
"""The kernel's side: sysfs, the fabrics device, uevents.

Shared with the workers, so it imports only what they may.
"""
