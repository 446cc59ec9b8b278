# SPDX-License-Identifier: Apache-2.0
"""UUIDs that no host has for its own."""

# What firmware vendors leave in many machines at once.
PLACEHOLDERS = frozenset(
    (
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "12345678-1234-1234-1234-123456789abc",
        "00112233-4455-6677-8899-aabbccddeeff",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "11111111-1111-1111-1111-111111111111",
    )
)
