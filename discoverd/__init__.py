# SPDX-License-Identifier: Apache-2.0
"""discoverd: one systemd unit per NVMe over Fabrics controller."""
