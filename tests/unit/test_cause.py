# SPDX-License-Identifier: Apache-2.0
"""The kernel's reasons in words."""

import errno
import os
from pathlib import Path

import pytest

from discoverd.kernel import controllers, fabrics, hosts
from discoverd.worker import cause
from discoverd.worker.cause import sentence

UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER_UUID = "11111111-4b5a-6978-8796-a5b4c3d2e1f0"
HOST = f"nqn.2014-08.org.nvmexpress:uuid:{UUID}"
GIVEN = {"nqn": "nqn.a", "transport": "tcp", "hostnqn": HOST, "hostid": UUID}

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
    assert sentence(OSError(errno.ENOTUNIQ, "Name not unique on network")) == "Name not unique on network"
    assert sentence(OSError(0, "the kernel answered 'x' without an instance")) == (
        "the kernel answered 'x' without an instance"
    )
    assert sentence(OSError("only this")) == "only this"


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    monkeypatch.setattr(cause, "_OFFLINE_CPUS", str(tmp_path / "offline"))
    return tmp_path


def connected(sysfs: Path, device: str, hostnqn: str, hostid: str) -> None:
    (sysfs / device).mkdir()
    (sysfs / device / "hostnqn").write_text(hostnqn + "\n")
    (sysfs / device / "hostid").write_text(hostid + "\n")


def refused(**options: str) -> str:
    return sentence(OSError(errno.EINVAL, "Invalid argument"), {**GIVEN, **options})


def test_host_id_that_another_host_has_is_told_with_its_holder(sysfs: Path) -> None:
    (sysfs / "nvme0").mkdir()  # PCIe: no host.
    connected(sysfs, "nvme1", HOST, UUID)
    assert "see the kernel's log" in refused()
    connected(sysfs, "nvme2", "nqn.2024-08.com.example:other", UUID.upper())
    assert refused().startswith(
        f"nvme2 is connected with the host ID {UUID} as another host, nqn.2024-08.com.example:other: "
    )
    assert "nvme2" not in refused(hostid=OTHER_UUID, hostnqn="nqn.2024-08.com.example:third")


def test_host_nqn_that_has_another_id_is_told_with_its_holder(sysfs: Path) -> None:
    connected(sysfs, "nvme1", HOST, OTHER_UUID)
    assert refused().startswith(f"nvme1 is connected as {HOST} with another host ID, {OTHER_UUID}: ")


def test_only_another_spelling_of_a_uuid_nqn_is_one(sysfs: Path) -> None:
    connected(sysfs, "nvme1", HOST.replace(UUID, UUID.upper()), UUID)
    found = hosts.holder(HOST, UUID)
    assert found
    assert found.spells(HOST)
    assert not found.spells(found.hostnqn)
    assert not found.spells("nqn.2024-08.com.example:other")
    (sysfs / "nvme1/hostnqn").write_text("nqn.2024-08.com.example:HOST\n")
    found = hosts.holder("nqn.2024-08.com.example:host", UUID)
    assert found
    assert not found.spells("nqn.2024-08.com.example:host")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transport": "rdma", "hdr_digest": ""}, "no hdr-digest over rdma"),
        ({"transport": "fc", "tos": "3"}, "no tos over fc"),
        ({"transport": "loop", "ctrl_loss_tmo": "3"}, "no ctrl-loss-tmo over loop"),
        ({"queue_size": "8"}, "queue-size = 8: it has to be at least 16, at most 1024"),
        ({"nr_io_queues": "0"}, "nr-io-queues = 0"),
        ({"reconnect_delay": "-1"}, "reconnect-delay = -1"),
    ],
)
def test_option_that_the_kernel_never_takes_is_named(sysfs: Path, options: dict[str, str], words: str) -> None:
    assert sysfs.exists()
    assert words in refused(**options)


def test_options_that_the_kernel_takes_are_not_blamed(sysfs: Path) -> None:
    assert sysfs.exists()
    given = {"hdr_digest": "", "queue_size": "128", "ctrl_loss_tmo": "-1", "tos": "0", "keep_alive_tmo": "5"}
    assert "see the kernel's log" in refused(**given)


def test_cpus_that_are_offline_are_named(sysfs: Path) -> None:
    error = OSError(errno.EXDEV, "Invalid cross-device link")
    assert sentence(error) == "Invalid cross-device link"
    (sysfs / "offline").write_text("\n")
    assert sentence(error) == "Invalid cross-device link"
    (sysfs / "offline").write_text("2-3,7\n")
    assert "CPUs that are offline (2-3,7)" in sentence(error)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OSError(5, "EIO"), "yes"),
        (OSError(111, "ECONNREFUSED"), "yes"),
        (OSError(129, "EKEYREJECTED"), "yes"),
        (OSError(110, "ETIMEDOUT"), "no"),
        (OSError(113, "EHOSTUNREACH"), "no"),
        # What took the TCP connection, and said nothing.
        (fabrics.ProbeError(110, "ETIMEDOUT"), "yes"),
        (fabrics.WithheldError(95, "the kernel lacks it"), ""),
        (OSError(22, "EINVAL"), ""),
        (OSError(101, "ENETUNREACH"), ""),
    ],
)
def test_silent_target_is_told_from_one_that_answers(error: OSError, answer: str) -> None:
    assert cause.answer(error) == answer
