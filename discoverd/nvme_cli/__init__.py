# SPDX-License-Identifier: Apache-2.0
"""The files of nvme-cli 2 (discovery.conf, config.json), understood, turned into ours, and compared with ours.

docs/design/nvme-cli.md has the table of their options.
"""
