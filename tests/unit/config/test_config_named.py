# SPDX-License-Identifier: Apache-2.0
"""What sections say about an NQN: for which paths it holds, which of two holds, and which says nothing to anybody."""

from collections.abc import Callable

import pytest

from discoverd.config.model import DiscoveredScope, FabricsConfig
from discoverd.config.named import applied, said_of
from tests.unit.dhchap_secrets import secret

Fabrics = Callable[..., FabricsConfig]

NQN = "nqn.2024-08.com.example:vol1"
UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:46BA5037-7ce5-41fa-9452-48477bf00080"
OWN = "nqn.2024-08.com.example:host"
PERSONA = "nqn.2024-08.com.example:other"
KEY, KEY2 = secret("one"), secret("two")
SECTION = f"[Subsystem]\nnqn = {NQN}\n"
PATH = "controller = transport=tcp;traddr=192.0.2.1\n"
DC = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.9\n"


def found(config: FabricsConfig, nqn: str = NQN, via: int | None = None, own: str = OWN) -> DiscoveredScope:
    scope = config.discovered(None if via is None else config.connections[via], "io")
    said = said_of(scope, nqn, own)
    return applied(said, scope) if said else scope


def messages(config: FabricsConfig) -> list[str]:
    return [str(one) for one in config.diagnostics]


@pytest.mark.parametrize("path", ["", PATH])
def test_section_holds_for_paths_that_are_found(fabrics: Fabrics, path: str) -> None:
    config = fabrics(f"{SECTION}kxchap-secret = {KEY}\nctrl-loss-tmo = 5\n{path}{DC}")
    for via in (None, -1):
        scope = found(config, via=via)
        assert (scope.secrets.kxchap_secret, scope.params) == (KEY, {"ctrl-loss-tmo": "5"})
        assert found(config, NQN + "2", via).params == {}
    assert (config.valid, messages(config)) == (True, [])


def test_settings_of_one_path_hold_for_that_path_only(fabrics: Fabrics) -> None:
    config = fabrics(f"{SECTION}tos = 1\n{PATH.strip()};ctrl-loss-tmo=5;tos=2\n")
    assert config.connections[0].params == {"ctrl-loss-tmo": "5", "tos": "2"}
    assert found(config).params == {"tos": "1"}


def test_section_goes_before_defaults_and_host(fabrics: Fabrics) -> None:
    main = (
        "[I/O Controller Defaults]\ntos = 1\nqueue-size = 16\n"
        f"[Host]\nctrl-loss-tmo = 5\nkxchap-secret = {KEY2}\ntls = true\n{DC}"
        f"{SECTION}tos = 2\nctrl-loss-tmo =\nkxchap-secret = {KEY}\ntls = false\n"
    )
    scope = found(fabrics(main), via=0)
    assert scope.params == {"tos": "2", "queue-size": "16"}
    assert (scope.secrets.kxchap_secret, scope.secrets.tls) == (KEY, False)


def test_section_of_another_file_goes_over_the_defaults_of_the_discovery_controllers(fabrics: Fabrics) -> None:
    config = fabrics(None, "[I/O Controller Defaults]\ntos = 1\n" + DC, f"{SECTION}queue-size = 16\n")
    assert found(config, via=0).params == {"tos": "1", "queue-size": "16"}
    # Without a main file, too.
    assert found(config).params == {"queue-size": "16"}


def test_uuid_counts_in_either_case(fabrics: Fabrics) -> None:
    config = fabrics(f"[Subsystem]\nnqn = {UUID_NQN}\ntos = 1\n")
    assert found(config, UUID_NQN.lower()).params == {"tos": "1"}


def test_section_without_a_path_holds_for_configured_paths(fabrics: Fabrics) -> None:
    """A file of its own for the keys: the other one may be read by everybody."""
    main = f"[Host]\ntos = 3\n{SECTION}queue-size = 16\n{PATH}"
    config = fabrics(main, f"{SECTION}kxchap-secret = {KEY}\nqueue-size = 32\n")
    (one,) = config.connections
    assert (one.secrets.kxchap_secret, one.params) == (KEY, {"tos": "3", "queue-size": "16"})
    # For those that are found the later one holds, and the two are to agree.
    assert found(config).params["queue-size"] == "32"
    assert messages(config) == [
        "d0:1:1: queue-size of this nqn is another in main:3; for paths that are found, this section holds "
        "(say it once, in one section)"
    ]


def test_section_with_paths_holds_for_no_other_configured_path(fabrics: Fabrics) -> None:
    config = fabrics(f"{SECTION}tos = 1\n{PATH}{SECTION}queue-size = 16\n{PATH.replace('.1', '.2')}")
    assert [dict(one.params) for one in config.connections] == [{"tos": "1"}, {"queue-size": "16"}]
    assert found(config).params == {"tos": "1", "queue-size": "16"}
    assert messages(config) == []


def test_contradiction_names_each_place(fabrics: Fabrics) -> None:
    one, two = f"{SECTION}tos = 1\n{PATH}", f"{SECTION}tos = 1\nkxchap-secret = {KEY}\n"
    config = fabrics(one + two, f"{SECTION}tos = 2\nkxchap-secret = {KEY2}\n")
    scope = found(config)
    assert (scope.params, scope.secrets.kxchap_secret) == ({"tos": "2"}, KEY2)
    (message,) = messages(config)
    assert message.startswith("d0:1:1: tos, kxchap-secret of this nqn is another in main:5; ")
    assert "DHHC" not in message.replace("<secret>", "")


# Personas -------------------------------------------------------------------------------------------------


def test_what_is_said_for_another_host_nqn_holds_for_what_is_found_as_that(fabrics: Fabrics) -> None:
    other = f"[Host]\nhostnqn = {PERSONA}\n{SECTION}kxchap-secret = {KEY}\n{DC}"
    config = fabrics(DC, other)
    assert found(config, via=0).secrets.kxchap_secret == ""
    assert found(config).secrets.kxchap_secret == ""
    scope = found(config, via=1)
    assert (scope.secrets.kxchap_secret, scope.hostnqn) == (KEY, PERSONA)
    assert messages(config) == []


def test_hosts_own_nqn_may_be_written_down(fabrics: Fabrics) -> None:
    config = fabrics(f"[Host]\nhostnqn = {OWN}\n{DC}{SECTION}tos = 1\n", f"{SECTION}queue-size = 16\n{DC}")
    for via in (0, 1, None):
        assert found(config, via=via).params == {"tos": "1", "queue-size": "16"}
        assert found(config, via=via, own=PERSONA).params != {"tos": "1", "queue-size": "16"}


# No effect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "drop_in", "place", "why"),
    [
        (SECTION, "", "main:1:1", "says nothing about its nqn"),
        ("[Discovery Controller]\ntos = 1\n", "", "main:1:1", "names no discovery controller"),
        (
            "[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress.discovery\ntos = 1\n",
            "",
            "main:1:1",
            "use a [Discovery Controller] section",
        ),
        (DC, f"[Host]\nhostnqn = {PERSONA}\n{SECTION}tos = 1\n", "d0:3:1", "as which no file has anything discovered"),
    ],
)
def test_section_that_can_have_no_effect_is_warned_of(
    fabrics: Fabrics, main: str, drop_in: str, place: str, why: str
) -> None:
    config = fabrics(main, drop_in)
    (diagnostic,) = config.diagnostics
    assert (diagnostic.severity, config.valid) == ("warning", True)
    assert str(diagnostic).startswith(f"{place}: [")
    assert "no effect" in diagnostic.message
    assert why in str(diagnostic)
    assert diagnostic.hint


def test_section_of_another_host_nqn_with_a_path_beside_it_has_an_effect(fabrics: Fabrics) -> None:
    config = fabrics(None, f"[Host]\nhostnqn = {PERSONA}\n{SECTION}tos = 1\n{SECTION}{PATH}")
    assert messages(config) == []
    assert config.connections[0].params == {"tos": "1"}


# Security -------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_keys_is_judged_with_the_section(fabrics: Fabrics) -> None:
    config = fabrics(f"[Host]\nkxchap-ctrl-secret = {KEY}\n{SECTION}kxchap-secret = {KEY2}\n")
    assert "has no effect without kxchap-secret" in found(config, NQN + "2").problem
    assert found(config).problem == ""
    bad = fabrics(f"{SECTION}kxchap-secret = a b\n")
    assert "white space" in found(bad).problem
    assert messages(bad)[0].startswith(
        "main:1:1: paths that are found cannot be connected: kxchap-secret holds a comma"
    )
    assert found(bad, NQN + "2").problem == ""


def test_main_file_with_errors_speaks_for_no_section(fabrics: Fabrics) -> None:
    config = fabrics("[Host]\njunk\n", f"{SECTION}kxchap-secret = {KEY}\n")
    assert "the main file has errors" in found(config).problem


def test_nothing_shows_a_key(fabrics: Fabrics) -> None:
    config = fabrics(f"{SECTION}kxchap-secret = {KEY}\n")
    said = said_of(config.discovered(None, "io"), NQN, OWN)
    assert said
    assert KEY not in repr(said) + repr(config) + repr(config.discovered(None, "io"))
