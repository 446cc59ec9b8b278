# SPDX-License-Identifier: Apache-2.0
"""The options that a connect is made of."""

import pytest

from discoverd.config.model import Secrets
from discoverd.kernel import fabrics
from discoverd.plan.candidate import CONFIGURATION, Candidate, fabrics_options
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .dhchap_secrets import secret

NQN = "nqn.2024-08.com.example:vol1"
HOST = "nqn.2024-08.com.example:host"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
ALL_PARAMS = {
    "data-digest": "true",
    "hdr-digest": "true",
    "disable-sqflow": "true",
    "duplicate-connect": "true",
    "tos": "3",
    "fast-io-fail-tmo": "5",
    "ctrl-loss-tmo": "-1",
    "reconnect-delay": "2",
    "keep-alive-tmo": "7",
    "queue-size": "64",
    "nr-poll-queues": "3",
    "nr-write-queues": "2",
    "nr-io-queues": "1",
}


def options(
    role: str = IO,
    params: dict[str, str] | None = None,
    secrets: Secrets | None = None,
    nqn: str = NQN,
    **hosts_side: str,
) -> tuple[tuple[str, str], ...]:
    tid = TransportId.make(role, "tcp", "192.0.2.1", "", nqn, **hosts_side)
    return fabrics_options(tid, role, params or {}, secrets or Secrets(), HOST, HOSTID)


def test_all_options_stand_in_libnvmes_order() -> None:
    made = options(
        params=ALL_PARAMS,
        secrets=Secrets(kxchap_secret=secret("host"), kxchap_ctrl_secret=secret("ctrl")),
        host_traddr="192.0.2.9",
        host_iface="eth0",
    )
    assert fabrics.lacking(list(made), None) == []
    assert fabrics.connect_string(list(made), set(dict(made))) == (
        f"nqn={NQN},transport=tcp,traddr=192.0.2.1,host_traddr=192.0.2.9,host_iface=eth0,trsvcid=4420,"
        f"hostnqn={HOST},hostid={HOSTID},dhchap_secret={secret('host')},dhchap_ctrl_secret={secret('ctrl')},"
        "nr_io_queues=1,nr_write_queues=2,nr_poll_queues=3,queue_size=64,keep_alive_tmo=7,reconnect_delay=2,"
        "ctrl_loss_tmo=-1,fast_io_fail_tmo=5,tos=3,duplicate_connect,disable_sqflow,hdr_digest,data_digest"
    )


def test_an_io_controller_keeps_the_kernels_keep_alive() -> None:
    assert "keep_alive_tmo" not in dict(options())


def test_a_discovery_controller_has_a_keep_alive() -> None:
    assert dict(options(DISCOVERY, nqn=DISCOVERY_NQN))["keep_alive_tmo"] == "30"
    assert dict(options(DISCOVERY, {"keep-alive-tmo": "0"}))["keep_alive_tmo"] == "0"


def test_a_discovery_controller_has_no_io_queues() -> None:
    names = dict(options(DISCOVERY, ALL_PARAMS))
    assert not names.keys() & {"nr_io_queues", "nr_write_queues", "nr_poll_queues", "queue_size"}
    assert names.keys() >= {"ctrl_loss_tmo", "hdr_digest"}


def test_the_kernel_is_told_of_a_discovery_controller_it_would_not_know() -> None:
    assert ("discovery", "") in options(DISCOVERY)
    assert "discovery" not in dict(options(DISCOVERY, nqn=DISCOVERY_NQN))
    assert "discovery" not in dict(options(IO))


def test_flags_that_are_off_are_not_there() -> None:
    assert "hdr_digest" not in dict(options(params={"hdr-digest": "false"}))


def test_no_controller_secret_without_a_host_secret() -> None:
    assert "dhchap_ctrl_secret" not in dict(options(secrets=Secrets(kxchap_ctrl_secret="DHHC-1:00:ctrl:")))


def test_secrets_are_not_shown() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN)
    secret = "DHHC-1:00:do-not-show:"
    made = Candidate(tid, IO, "configured at f:1", CONFIGURATION, options(secrets=Secrets(kxchap_secret=secret)))
    assert secret in dict(made.options).values()
    assert "do-not-show" not in f"{made!r} {made} {made.tid.unit}"


SECURE = ["dhchap_secret", "dhchap_ctrl_secret", "tls", "tls_key", "keyring", "concat"]
ALWAYS = {"nqn", "transport", "traddr", "trsvcid", "hostnqn", "hostid"}


@pytest.mark.parametrize(
    ("known", "left_out"),
    [
        (None, []),
        ({*ALWAYS, "keep_alive_tmo", "hdr_digest", "tos"}, []),
        (ALWAYS, ["keep_alive_tmo", "tos", "hdr_digest"]),
    ],
)
def test_a_kernel_that_lacks_an_option(known: set[str] | None, left_out: list[str]) -> None:
    given = list(options(params={"tos": "1", "hdr-digest": "true", "keep-alive-tmo": "5"}))
    assert fabrics.lacking(given, known) == left_out
    text = fabrics.connect_string(given, known)
    # What makes the connection the one that was asked for is never left out.
    assert text.startswith(f"nqn={NQN},transport=tcp,traddr=192.0.2.1,trsvcid=4420,hostnqn={HOST},hostid={HOSTID}")
    assert not any(name in text for name in left_out)


@pytest.mark.parametrize("name", ["discovery", "host_traddr", "host_iface", *SECURE])
def test_option_that_tells_connections_apart_is_never_left_out(name: str) -> None:
    value = secret("x") if name.startswith("dhchap") else "x"
    assert fabrics.lacking([(name, value)], set()) == []
    assert fabrics.connect_string([(name, value)], {name}) == f"{name}={value}"
    with pytest.raises(fabrics.WithheldError, match=f"does not know the option {name}, ") as caught:
        fabrics.connect_string([(name, value)], {"nqn"})
    assert value == "x" or value not in str(caught.value)


@pytest.mark.parametrize("name", SECURE)
def test_kernel_that_does_not_tell_is_given_no_secret(name: str) -> None:
    with pytest.raises(fabrics.WithheldError):
        fabrics.connect_string([(name, secret("x"))], None)
