# SPDX-License-Identifier: Apache-2.0
"""The form of a secret for in-band authentication (DH-HMAC-CHAP): ``DHHC-1:<hash>:<base64>:``.

The base64 is of the key and its CRC-32 (NVMe Base Specification, secret representation). The kernel logs a secret of
another form as it is, for all who may read its log.
"""

from binascii import a2b_base64, crc32

# For each hash how many bytes the key has: not transformed, SHA-256, SHA-384, SHA-512.
_LENGTHS = {"00": (32, 48, 64), "01": (32,), "02": (48,), "03": (64,)}


def problem(secret: str) -> str:
    """Return what is wrong with the form of a secret, without any of the secret; '' if nothing is."""
    prefix, *parts = secret.split(":")
    # The kernel does without the last colon.
    if prefix != "DHHC-1" or len(parts) not in (2, 3) or parts[2:] not in ([], [""]):
        return "it has not the form that nvme gen-dhchap-key gives it"
    lengths = _LENGTHS.get(parts[0])
    if lengths is None:
        return "its hash is none of 00, 01, 02 and 03"
    try:
        data = a2b_base64(parts[1], strict_mode=True)
    except ValueError:
        return "what follows its hash is no base64"
    key, checksum = data[:-4], data[-4:]
    if len(key) not in lengths:
        wanted = " or ".join(map(str, lengths))
        return f"its key has {len(key)} bytes instead of {wanted}: a part is missing, or the hash is another one"
    if crc32(key).to_bytes(4, "little") != checksum:
        return "its checksum (CRC-32) is wrong: it was changed or mistyped"
    return ""
