# SPDX-License-Identifier: Apache-2.0
"""Secrets of the right form, for in-band authentication."""

import base64
import hashlib
import zlib


def secret(text: str, hash_id: str = "00", length: int = 32) -> str:
    """Return the secret whose key is made from a text: another text, another secret."""
    key = hashlib.sha512(text.encode()).digest()[:length]
    return f"DHHC-1:{hash_id}:{base64.b64encode(key + zlib.crc32(key).to_bytes(4, 'little')).decode()}:"
