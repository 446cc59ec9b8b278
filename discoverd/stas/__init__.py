# SPDX-License-Identifier: Apache-2.0
"""nvme-stas's configuration (sys.conf, stafd.conf, stacd.conf), understood and turned into ours.

docs/design/nvme-stas.md has the table of its options.
"""
