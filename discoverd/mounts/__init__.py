# SPDX-License-Identifier: Apache-2.0
"""The process that tells systemd which mounts need the network; thin, as the workers are."""
