# SPDX-License-Identifier: Apache-2.0
"""How much of this host those may have who are only announced (discoverd.plan.candidate): whoever is on a link.

How many discovery controllers are asked about is discoverd.bus.avahi's, and how much of a page is read kernel.admin's.
"""

# So many controllers may be listed by log pages that only announcements lead to, over all such pages together, and so
# many of them be discovery controllers.
ANNOUNCED_LISTED = 256
ANNOUNCED_REFERRALS = 32
# A worker that could not connect ends, instead of waiting. Who has lost its connection, the kernel or then the worker,
# gives up so soon.
ANNOUNCED_ATTEMPTS = 1
ANNOUNCED_GIVE_UP_SECONDS = 300
# So many are connected at a time, when no one who is trusted waits for his turn.
ANNOUNCED_CONNECTING = 1
# One that could not be connected is tried again after the first of these, then ever later, up to the second.
ANNOUNCED_FIRST_WAIT_SECONDS = 60
ANNOUNCED_LONGEST_WAIT_SECONDS = 3600
# After each failure in a row, whoever failed, the next of them all waits a second longer, up to this.
ANNOUNCED_PAUSE_SECONDS = 10
