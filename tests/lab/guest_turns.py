# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, as root: asks discoverd all the time for a turn of its loop, and how long it had to wait at most.

    guest_turns.py SECONDS

The loop reads its wake socket whenever it has a turn, and passes over what is no instance. What is sent there and not
read yet, the kernel tells the sender (SIOCOUTQ). Prints the longest wait in milliseconds, and how many there were.
"""

import fcntl
import socket
import struct
import sys
import termios
import time

WAKE = "/run/discoverd/wake"
LOOK_SECONDS = 0.001


def _unread(sender: socket.socket) -> int:
    (size,) = struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))
    return int(size)


def main() -> None:
    until = time.monotonic() + float(sys.argv[1])
    longest, count = 0.0, 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(WAKE)
        while time.monotonic() < until:
            asked = time.monotonic()
            sender.send(b"/")
            while _unread(sender):
                time.sleep(LOOK_SECONDS)
            longest = max(longest, time.monotonic() - asked)
            count += 1
            time.sleep(0.01)
    print(f"{longest * 1000:.0f} {count}")


if __name__ == "__main__":
    main()
