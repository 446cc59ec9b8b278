# SPDX-License-Identifier: Apache-2.0
"""What an administrator wrote: connections in the shared fabrics format, the daemon's own settings, host identity.

Reading files (``sources``) is separate from understanding them, so that only the reading needs a thread.
"""
