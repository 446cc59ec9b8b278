# SPDX-License-Identifier: Apache-2.0
"""What an administrator wrote: connections, the daemon's own settings, host identity.

Reading files (``sources``) is separate from understanding them, so that only the reading needs a thread.
"""
