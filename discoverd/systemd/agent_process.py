# SPDX-License-Identifier: Apache-2.0
"""The unit agent's process, as who starts it has it. Imports little, for it is started before all else."""

import os
import signal
import sys

# Its launcher, in the directory of all launchers.
AGENT = "/unit-agent"


class AgentProcess:
    """``requests`` and ``answers`` are the other ends of its standard input and output."""

    def __init__(self, launcher: str) -> None:
        """Start the process. Raises OSError."""
        request, requests = os.pipe()
        answers, answer = os.pipe()
        self.requests, self.answers = os.fdopen(requests, "wb", buffering=0), os.fdopen(answers, "rb", buffering=0)
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", launcher],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, request, 0), (os.POSIX_SPAWN_DUP2, answer, 1)],
            )
        except OSError:
            self.requests.close()
            self.answers.close()
            raise
        finally:
            os.close(request)
            os.close(answer)

    def end(self) -> None:
        """Kill it, and return when it has ended. The files are left to who reads and writes them."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
