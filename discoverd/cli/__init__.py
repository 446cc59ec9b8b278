# SPDX-License-Identifier: Apache-2.0
"""``discoverctl``: what this host's controllers are, why they are so, and the verbs that change it."""
