# SPDX-License-Identifier: Apache-2.0
"""Status codes of completions: type in bits 10:8, code in bits 7:0, DNR in bit 14 (Base Specification 2.0 §3.3.3.2)."""

SUCCESS = 0x000
INVALID_OPCODE = 0x4001
INVALID_FIELD = 0x4002
ABORTED = 0x007
INVALID_SGL_DESCRIPTOR = 0x400D
COMMAND_SEQUENCE = 0x400C
TRANSIENT_TRANSPORT = 0x022
AER_LIMIT = 0x4105
INVALID_LOG_PAGE = 0x4109
FEATURE_NOT_SAVEABLE = 0x410D
CONNECT_FORMAT = 0x4180
CONNECT_BUSY = 0x181
CONNECT_INVALID_PARAMETERS = 0x4182
CONNECT_INVALID_HOST = 0x4184


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, and no error
    """A command fails with this status and this DW0."""

    def __init__(self, status: int, text: str, result: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.result = result
