# SPDX-License-Identifier: Apache-2.0
"""What is written to the fabrics device, and whether a target can be reached at all."""

import errno
import os
import posix
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.kernel import controllers, fabrics
from discoverd.worker.cause import sentence

from .dhchap_secrets import secret

OPTIONS = [("nqn", "nqn.a"), ("transport", "tcp"), ("host_iface", "eth0"), ("tos", "3"), ("hdr_digest", "")]


def test_options_that_the_kernel_lacks_are_left_out_unless_they_matter() -> None:
    assert fabrics.connect_string(OPTIONS, None) == "nqn=nqn.a,transport=tcp,host_iface=eth0,tos=3,hdr_digest"
    assert fabrics.lacking(OPTIONS, None) == []
    known = {"nqn", "transport", "tos", "host_iface"}
    assert fabrics.connect_string(OPTIONS, known) == "nqn=nqn.a,transport=tcp,host_iface=eth0,tos=3"
    assert fabrics.lacking(OPTIONS, known) == ["hdr_digest"]
    with pytest.raises(fabrics.WithheldError, match="does not know the option host_iface"):
        fabrics.connect_string(OPTIONS, known - {"host_iface"})


@pytest.mark.parametrize("key", ["dhchap_secret", "dhchap_ctrl_secret"])
def test_secret_of_another_form_is_not_written(key: str) -> None:
    wrong = "DHHC-1:00:" + secret("a")[10:20] + secret("b")[20:]
    with pytest.raises(fabrics.WithheldError, match="not given to the kernel: its checksum") as caught:
        fabrics.connect_string([(key, wrong)], {key})
    assert key in sentence(caught.value)
    assert wrong[10:20] not in sentence(caught.value)


# The probe ------------------------------------------------------------------------------------------------

LENGTH = (128).to_bytes(4, "little")


def icresp(digests: int = 0) -> bytes:
    return b"\1\0\x80\0" + LENGTH + b"\0\0\0" + bytes([digests]) + bytes(116)


def asked(connection: socket.socket) -> bytes:
    """Take the whole of an ICReq."""
    return connection.recv(128, socket.MSG_WAITALL)


@contextmanager
def listening(serve: Callable[[socket.socket], object], address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Have each connection served by a function, and closed after it; gives the options of a connect to there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield {"transport": "tcp", "traddr": address, "trsvcid": str(server.getsockname()[1])}
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(answer)
        connection.recv(1)

    return serve


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_target_that_listens_is_reached(address: str) -> None:
    with listening(answering(icresp()), address) as options:
        fabrics.reach({**options, "host_traddr": address})
    with pytest.raises(ConnectionRefusedError):
        fabrics.reach(options)


def test_probe_asks_as_the_kernel_does_and_closes_before_the_first_command() -> None:
    heard = []

    def serve(connection: socket.socket) -> None:
        heard.append(asked(connection))
        # In two parts, as a network may deliver it.
        connection.sendall(icresp(3)[:60])
        time.sleep(0.02)
        connection.sendall(icresp(3)[60:])
        heard.append(connection.recv(1))

    with listening(serve) as options:
        fabrics.reach({**options, "hdr_digest": "", "data_digest": ""})
    # Type, flags, HLEN, PDO, PLEN; PFV, HPDA, DGST, MAXR2T (NVMe/TCP Transport Specification, figure "ICReq PDU").
    head = bytes([0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0])
    assert heard == [head + bytes(112), b""]


NOT_NVME = [
    (b"", errno.ECONNRESET, "closes it"),
    (icresp()[:64], errno.ECONNRESET, "closes it"),
    (icresp(1), errno.EPROTO, "digests"),
    (b"\1\0\x80\0\xff\xff\0\0" + bytes(120), errno.EPROTO, "not NVMe/TCP"),
    (b"\3\0\x18\0\x98\0\0\0\6\0" + bytes(142), errno.EPROTO, "ends the connection: unsupported parameter"),
    (b"\3\0\x18\0\x98\0\0\0\x63\0" + bytes(142), errno.EPROTO, "fatal error status 0x63"),
    (b"\x15\3\3\0\2\2\x32", errno.EPROTO, "wants TLS on this port"),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", errno.EPROTO, "not NVMe/TCP"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", errno.EPROTO, "not NVMe/TCP"),
    (b"+", errno.EPROTO, "not NVMe/TCP"),
]


@pytest.mark.parametrize(("answer", "number", "words"), NOT_NVME, ids=range(len(NOT_NVME)))
def test_what_is_no_nvme_target_is_not_reached(answer: bytes, number: int, words: str) -> None:
    def serve(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(answer)

    with listening(serve) as options, pytest.raises(fabrics.ProbeError) as caught:
        fabrics.reach(options)
    assert caught.value.errno == number
    assert words in sentence(caught.value)


def test_peer_that_speaks_first_and_resets_is_not_reached() -> None:
    def serve(connection: socket.socket) -> None:
        # Closed with something unread, a connection is reset.
        connection.recv(1)

    with listening(serve) as options, pytest.raises(fabrics.ProbeError) as caught:
        fabrics.reach(options)
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("said", [b"", icresp()[:7]], ids=["silent", "stuck"])
def test_silent_target_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(fabrics, "ANSWER_TIMEOUT_SECONDS", 0.2)
    began = time.monotonic()
    with listening(answering(said)) as options, pytest.raises(fabrics.ProbeError) as caught:
        fabrics.reach(options)
    assert time.monotonic() < began + 5
    assert caught.value.errno == errno.ETIMEDOUT
    assert "does not answer" in sentence(caught.value)


def test_target_that_drips_is_not_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "ANSWER_TIMEOUT_SECONDS", 0.2)
    dripped = []

    def serve(connection: socket.socket) -> None:
        try:
            for byte in icresp():
                connection.sendall(bytes([byte]))
                dripped.append(byte)
                time.sleep(0.1)
        except OSError:
            pass

    with listening(serve) as options, pytest.raises(fabrics.ProbeError, match="initialised"):
        fabrics.reach(options)
    assert len(dripped) < 64


def test_target_with_tls_is_only_connected_to() -> None:
    heard: list[bytes] = []
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        heard.append(connection.recv(1))
        done.set()

    with listening(serve) as options:
        fabrics.reach({**options, "tls": ""})
        assert done.wait(5)
    assert heard == [b""]


def test_a_target_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "REACH_TIMEOUT_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = str(server.getsockname()[1])
        # A full backlog drops what comes next.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", int(port)))
        with pytest.raises(OSError, match="timed out") as caught:
            fabrics.reach({"transport": "tcp", "traddr": "127.0.0.1", "trsvcid": port})
        assert caught.value.errno == errno.ETIMEDOUT
        for one in waiting:
            one.close()


def test_an_address_that_this_host_has_not() -> None:
    with pytest.raises(OSError, match="assign requested address") as caught:
        fabrics.reach({"transport": "tcp", "traddr": "127.0.0.1", "trsvcid": "1", "host_traddr": "192.0.2.77"})
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_other_transports_are_the_kernels_business() -> None:
    fabrics.reach({"transport": "fc", "traddr": "nn-0x1:pn-0x2"})


# Delete ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    return tmp_path


def add(sysfs: Path, device: str = "nvme3") -> Path:
    (sysfs / device).mkdir()
    attribute = sysfs / device / "delete_controller"
    attribute.write_text("")
    return attribute


def test_delete(sysfs: Path) -> None:
    attribute = add(sysfs)
    before = os.listdir("/proc/self/fd")
    fabrics.delete("nvme3", controllers.sysfs_inode("nvme3"))
    assert attribute.read_text() == "1"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_another_of_the_same_name_is_not_deleted(sysfs: Path) -> None:
    add(sysfs)
    instance = controllers.sysfs_inode("nvme3")
    (sysfs / "nvme3").rename(sysfs / "gone")
    attribute = add(sysfs)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
    assert attribute.read_text() == ""
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nor_one_that_takes_the_name_at_the_last_moment(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(sysfs)
    instance = controllers.sysfs_inode("nvme3")

    def fstat(folder: int) -> os.stat_result:
        status = os.fstat(folder)
        (sysfs / "nvme3/delete_controller").unlink()
        (sysfs / "nvme3").rename(sysfs / "gone")
        add(sysfs)
        return status

    monkeypatch.setattr(fabrics, "posix", SimpleNamespace(**{**vars(posix), "fstat": fstat}))
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
    assert (sysfs / "nvme3/delete_controller").read_text() == ""


@pytest.mark.parametrize("instance", [0, 1])
def test_a_controller_that_is_not_there(sysfs: Path, instance: int) -> None:
    assert sysfs.exists()
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
