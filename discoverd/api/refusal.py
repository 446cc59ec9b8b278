# SPDX-License-Identifier: Apache-2.0
"""What a caller does not get."""


class RefusalError(Exception):
    """A call that is answered with an error; ``name`` is the error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
