# SPDX-License-Identifier: Apache-2.0
"""The kernel's reasons in words."""

import errno
import os

import pytest

from discoverd.worker.cause import sentence

# What open, write and read of /dev/nvme-fabrics can end in: drivers/nvme/host/{fabrics,core,tcp,rdma,fc,auth}.c,
# and the sockets and key rings below them.
NUMBERS = [
    errno.ENOENT,
    errno.EIO,
    errno.ENXIO,
    errno.EAGAIN,
    errno.ENOMEM,
    errno.EACCES,
    errno.EPERM,
    errno.EBUSY,
    errno.ENODEV,
    errno.EINVAL,
    errno.EPROTONOSUPPORT,
    errno.EOPNOTSUPP,
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EALREADY,
    errno.ENOKEY,
    errno.EKEYEXPIRED,
    errno.EKEYREVOKED,
    errno.EKEYREJECTED,
    errno.EPROTO,
    errno.ENOTSUP,
    errno.EINTR,
    errno.ENOSPC,
]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_each_has_a_sentence(number: int) -> None:
    text = sentence(OSError(number, os.strerror(number)))
    assert text
    assert text.isprintable()
    assert not text.endswith(".")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "load the module nvme-fabrics"),
        (errno.EPROTONOSUPPORT, "load its module"),
        (errno.ECONNREFUSED, "refused"),
        (errno.ETIMEDOUT, "timed out"),
        (errno.EHOSTUNREACH, "no route"),
        (errno.EADDRNOTAVAIL, "host-traddr"),
        (errno.ENODEV, "interface"),
        (errno.EKEYREJECTED, "kxchap-secret"),
        (errno.ENOKEY, "key is missing"),
        (errno.EIO, "this host not allowed"),
    ],
)
def test_cause_says_what_to_look_at(number: int, words: str) -> None:
    assert words in sentence(OSError(number, "something else", "/dev/nvme-fabrics"))


def test_a_port_that_is_not_in_the_fabric_is_no_missing_device() -> None:
    assert "does not see" in sentence(FileNotFoundError(errno.ENOENT, "No such file or directory"))


def test_unknown_error_is_told_in_the_words_of_the_system() -> None:
    assert sentence(OSError(errno.EXDEV, "Invalid cross-device link")) == "Invalid cross-device link"
    assert sentence(OSError(0, "the kernel answered 'x' without an instance")) == (
        "the kernel answered 'x' without an instance"
    )
    assert sentence(OSError("only this")) == "only this"
