# SPDX-License-Identifier: Apache-2.0
"""Which files count where some have mistakes."""

from hypothesis import given
from hypothesis import strategies as st

from discoverd.config.files import Files
from discoverd.config.identity import MISSING
from discoverd.config.last_good import Settled, refusing, settle
from discoverd.config.sources import SourceFile
from tests.unit.dhchap_secrets import secret

NQN = "nqn.2024-08.com.example:vol{}"
PERSONA = "[Host]\nhostnqn = nqn.2024-08.com.example:{}\nhostid = 11111111-2222-3333-4444-55555555555{}\n"
HOST = "nqn.2014-08.org.nvmexpress:uuid:46ba5037-7ce5-41fa-9452-48477bf00080"
MAIN = "etc/nvme-fabrics.conf"


def dc(host: int) -> str:
    return f"[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.{host}\n"


def volume(number: int, more: str = "") -> str:
    path = f"controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n{more}"
    return f"[Subsystem]\nnqn = {NQN.format(number)}\n{path}"


def fabrics(main: str | None = None, **drop_ins: str) -> Files:
    return Files(fabrics=tuple(_sources("etc/nvme-fabrics.conf", main, drop_ins)))


def settings(main: str | None = None, **drop_ins: str) -> Files:
    return Files(settings=tuple(_sources("etc/discoverd.conf", main, drop_ins)))


def identity(nqn: str | None, hostid: str | None = None) -> Files:
    texts = {"hostnqn": nqn, "hostid": hostid}
    return Files(
        identity=tuple(
            SourceFile(f"etc/{name}", fault=MISSING) if text is None else SourceFile(f"etc/{name}", text.encode())
            for name, text in texts.items()
        )
    )


def _sources(path: str, main: str | None, drop_ins: dict[str, str]) -> list[SourceFile]:
    found = [] if main is None else [SourceFile(path, main.encode())]
    return found + [
        SourceFile(f"{path}.d/{name}.conf", text.encode(), drop_in=True) for name, text in sorted(drop_ins.items())
    ]


def addresses(settled: Settled) -> list[str]:
    return [one.traddr.rpartition(".")[2] for one in settled.fabrics.connections]


def mistakes(settled: Settled) -> list[str]:
    return [f"{one.path.rpartition('/')[2]}:{one.line}" for one in settled.mistakes]


def kept(settled: Settled) -> list[str]:
    return [one.path.rpartition("/")[2] for one in settled.kept]


# Connections ----------------------------------------------------------------------------------------------


def test_good_files_count_as_they_are() -> None:
    now = fabrics(dc(1), a=dc(2))
    settled = settle(now, fabrics(dc(3), b=dc(4)))
    assert addresses(settled) == ["1", "2"]
    assert (settled.mistakes, settled.kept, settled.good, settled.fabrics.valid) == ((), (), now, True)


def test_file_with_an_error_counts_as_it_was_and_all_others_as_they_are() -> None:
    before = fabrics(dc(1), a=dc(2), b=dc(3), c=dc(4))
    now = fabrics(dc(1), a=dc(9) + "junk\n", b=dc(5), d=dc(6))
    settled = settle(now, before)
    assert addresses(settled) == ["1", "2", "5", "6"]
    assert (mistakes(settled), kept(settled)) == (["a.conf:3"], ["a.conf"])
    # Removed with its file, and so gone.
    assert "4" not in addresses(settled)
    assert settled.fabrics.earlier == {"etc/nvme-fabrics.conf.d/a.conf": "as the file was before the mistake in line 3"}
    # Not all that is written is understood, so nothing follows from what is missing.
    assert not settled.fabrics.valid
    assert settled.good == fabrics(dc(1), a=dc(2), b=dc(5), d=dc(6))
    # The next time, the same holds for what is remembered now.
    assert addresses(settle(now, settled.good)) == addresses(settled)


def test_file_with_an_error_that_was_never_good_is_left_out() -> None:
    now = fabrics(dc(1), a=dc(2) + "junk\n")
    for before in (None, fabrics(dc(1))):
        settled = settle(now, before)
        assert addresses(settled) == ["1"]
        assert (mistakes(settled), settled.kept) == (["a.conf:3"], ())
        assert settled.good == fabrics(dc(1))


def test_misspelt_key_counts_as_a_mistake_where_something_is_missing_for_it() -> None:
    before = fabrics(dc(1), a=dc(2))
    settled = settle(fabrics("[Discovery Controller]\ncontroler = transport=tcp;traddr=192.0.2.1\n", a=dc(2)), before)
    assert addresses(settled) == ["1", "2"]
    assert kept(settled) == ["nvme-fabrics.conf"]
    assert all(one.severity == "error" for one in settled.mistakes)
    assert "the path to tcp 192.0.2.1 in [Discovery Controller], which stood in this file, is missing" in str(
        settled.mistakes
    )
    assert settled.complaints == settled.mistakes


def test_misspelt_section_or_address_counts_as_a_mistake() -> None:
    before = fabrics(dc(1) + volume(1))
    for old, new in (
        ("[Discovery Con", "[Discoverie Con"),
        ("transport=tcp;traddr=192.0.2.1\n", "transport=tpc;traddr=192.0.2.1\n"),
    ):
        text = (dc(1) + volume(1)).replace(old, new, 1)
        settled = settle(fabrics(text), before)
        assert (kept(settled), addresses(settled)) == (["nvme-fabrics.conf"], ["1", "1"]), new


def test_misspelt_setting_of_a_path_counts_as_a_mistake() -> None:
    before = fabrics(volume(1, "ctrl-loss-tmo = 1800\n"))
    settled = settle(fabrics(volume(1, "ctrl-los-tmo = 1800\n")), before)
    assert kept(settled) == ["nvme-fabrics.conf"]
    assert settled.fabrics.connections[0].params == {"ctrl-loss-tmo": "1800"}


def test_mistyped_secret_counts_as_a_mistake_and_another_one_does_not() -> None:
    before = fabrics(volume(1, f"kxchap-secret = {secret('x')}\n"))
    mistyped = settle(fabrics(volume(1, f"kxchap-secret = {secret('y')[:-4]}\n")), before)
    assert kept(mistyped) == ["nvme-fabrics.conf"]
    assert mistyped.fabrics.connections[0].secrets.kxchap_secret == secret("x")
    assert "DHHC" not in str(mistyped)
    assert settle(fabrics(volume(1, f"kxchap-secret = {secret('y')}\n")), before).mistakes == ()


def test_removed_section_is_gone_beside_a_key_that_was_ignored_before() -> None:
    unknown = "[I/O Controller Defaults]\nfuture = 1\n"
    settled = settle(fabrics(unknown + dc(1)), fabrics(unknown + dc(1) + dc(2)))
    assert (addresses(settled), settled.mistakes) == (["1"], ())


def test_new_unknown_key_is_no_mistake_where_nothing_is_missing() -> None:
    settled = settle(fabrics(dc(1) + "future = 1\n"), fabrics(dc(1)))
    assert (addresses(settled), settled.mistakes) == (["1"], ())
    assert [one.severity for one in settled.complaints] == ["warning"]


def test_another_value_takes_nothing_away() -> None:
    before = fabrics(volume(1, "ctrl-loss-tmo = 1800\n"))
    settled = settle(fabrics(volume(1, "ctrl-loss-tmo = 60\nfuture = 1\n")), before)
    assert (settled.mistakes, settled.fabrics.connections[0].params) == ((), {"ctrl-loss-tmo": "60"})


def test_path_that_moved_to_another_file_is_there_once() -> None:
    settled = settle(fabrics(dc(1), a=dc(2), b=dc(2)), fabrics(dc(1), b=dc(2)))
    assert settled.mistakes == ()
    assert [bool(one.problem) for one in settled.fabrics.connections] == [False, False, True]


def test_drop_ins_keep_the_defaults_of_a_main_file_that_has_a_mistake() -> None:
    defaults = "[Discovery Controller Defaults]\ntos = 3\n"
    settled = settle(fabrics(defaults + "junk\n", a=dc(1)), fabrics(defaults, a=dc(1)))
    assert (mistakes(settled), kept(settled)) == (["nvme-fabrics.conf:3"], ["nvme-fabrics.conf"])
    assert settled.fabrics.connections[0].params == {"tos": "3"}
    assert [one.line for one in settled.complaints] == [3]
    # Without it they are not trusted, and that is no mistake of theirs.
    alone = settle(fabrics(defaults + "junk\n", a=dc(1)))
    assert (addresses(alone), mistakes(alone)) == ([], ["nvme-fabrics.conf:3"])


def test_earlier_version_that_contradicts_a_good_file_does_not_count() -> None:
    """The persona has moved to another file, and the file that it stood in has a mistake."""
    before = fabrics(a=PERSONA.format("x", 1) + dc(1))
    settled = settle(fabrics(a=PERSONA.format("y", 2) + "junk\n", b=PERSONA.format("x", 1) + dc(1) + dc(2)), before)
    assert (addresses(settled), settled.kept, mistakes(settled)) == (["1", "2"], (), ["a.conf:4"])


def test_file_that_contradicts_another_counts_as_it_was() -> None:
    before = fabrics(a=PERSONA.format("x", 1) + dc(1), b=PERSONA.format("y", 2) + dc(2))
    settled = settle(fabrics(a=PERSONA.format("x", 1) + dc(1), b=PERSONA.format("x", 1) + dc(3)), before)
    assert (addresses(settled), kept(settled)) == (["1", "2"], ["b.conf"])


def test_directory_that_cannot_be_listed_has_the_drop_ins_that_it_had() -> None:
    folder = SourceFile("etc/nvme-fabrics.conf.d", fault="cannot be listed: Input/output error", drop_in=True)
    before = fabrics(dc(1), a=dc(2), b=dc(3))
    settled = settle(Files(fabrics=(*fabrics(dc(1)).fabrics, folder)), before)
    assert (addresses(settled), kept(settled)) == (["1", "2", "3"], ["nvme-fabrics.conf.d"])
    assert settled.good == before


@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_whatever_stands_in_a_file_costs_no_other(then: bytes, now: bytes, main: bool) -> None:
    odd, good = (
        ("etc/nvme-fabrics.conf", "etc/nvme-fabrics.conf.d/a.conf")
        if main
        else (
            "etc/nvme-fabrics.conf.d/a.conf",
            "etc/nvme-fabrics.conf",
        )
    )

    def files(data: bytes) -> Files:
        found = [SourceFile(odd, data, drop_in=not main), SourceFile(good, dc(1).encode(), drop_in=main)]
        return Files(fabrics=tuple(sorted(found, key=lambda one: one.drop_in)))

    remembered = settle(files(then)).good
    settled = settle(files(now), remembered)
    unread = main and b"\0" in now and all(one.path != odd for one in remembered.fabrics)
    assert unread or "1" in addresses(settled)
    assert settle(settled.good, settled.good).mistakes == ()


# Settings -------------------------------------------------------------------------------------------------


def test_bad_value_keeps_its_file_as_it_was() -> None:
    before = settings("[Global]\ndisconnect-scope = none\nmax-connecting = 3\n")
    settled = settle(settings("[Global]\ndisconnect-scope = nnoe\nmax-connecting = 4\n"), before)
    assert (settled.settings.disconnect_scope, settled.settings.max_connecting) == ("none", 3)
    (complaint,) = settled.complaints
    assert "none is used" in complaint.message
    assert settled.good == before


def test_bad_value_that_was_never_good_has_the_default() -> None:
    settled = settle(settings("[Global]\ndisconnect-scope = nnoe\nmax-connecting = 4\n"))
    assert (settled.settings.disconnect_scope, settled.settings.max_connecting) == ("ours", 4)
    assert settled.good == Files()


def test_misspelt_key_keeps_its_file_as_it_was_and_a_removed_one_is_gone() -> None:
    before = settings("[Global]\ndisconnect-scope = none\n")
    misspelt = settle(settings("[Global]\ndisconect-scope = none\n"), before)
    assert (misspelt.settings.disconnect_scope, mistakes(misspelt)) == ("none", ["discoverd.conf:2"])
    removed = settle(settings("[Global]\n"), before)
    assert (removed.settings.disconnect_scope, removed.mistakes) == ("ours", ())


def test_later_settings_hold_over_those_that_were_kept() -> None:
    before = settings("[Global]\nmax-connecting = 3\n")
    settled = settle(settings("[Global]\nmax-connecting = x\n", a="[Global]\nmax-connecting = 5\n"), before)
    assert settled.settings.max_connecting == 5


# The host's identity --------------------------------------------------------------------------------------


def test_mistyped_identity_is_what_it_was_both_files_together() -> None:
    other = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    before = identity(HOST, other)
    settled = settle(identity("nqn.nonsense", "11111111-2222-3333-4444-555555555555"), before)
    assert (settled.host.hostnqn, settled.host.hostid) == (HOST, other)
    assert (mistakes(settled), kept(settled), settled.good) == (["hostnqn:1"], ["hostnqn"], before)


def test_missing_or_empty_identity_is_not_what_it_was() -> None:
    for now in (identity(None), identity("\n"), identity(None, "x")):
        settled = settle(now, identity(HOST))
        assert (settled.host.hostnqn, settled.kept) == ("", ())
        assert settled.mistakes
        assert settled.good == Files()


# What refuses a reload ------------------------------------------------------------------------------------


def reloaded(then: Files, now: Files) -> list[str]:
    """Return where the mistakes are by which a reload from one to the other is refused."""
    in_force = settle(then)
    found = refusing(settle(now, in_force.good), in_force)
    return [f"{one.path.rpartition('/')[2]}:{one.line}" for one in found]


def both(identity_files: Files, main: str, **drop_ins: str) -> Files:
    return Files(fabrics=fabrics(main, **drop_ins).fabrics, identity=identity_files.identity)


def test_host_without_an_nqn_can_be_reloaded() -> None:
    assert reloaded(both(identity(None), dc(1)), both(identity(None), dc(2))) == []
    assert reloaded(both(identity(None), dc(1)), both(identity("\n"), dc(2))) == []
    assert reloaded(both(identity(None), dc(1)), both(identity("nonsense\n"), dc(2))) == ["hostnqn:1"]


def test_identity_that_goes_refuses_a_reload() -> None:
    assert reloaded(identity(HOST), identity(None)) == ["hostnqn:0"]
    assert reloaded(identity(HOST), identity("")) == ["hostnqn:0"]


def test_mistake_that_was_there_before_refuses_no_reload() -> None:
    bad = dc(2) + "junk\n"
    assert reloaded(fabrics(dc(1), a=bad), fabrics(dc(3), a=bad)) == []
    assert reloaded(fabrics(dc(1), a=bad), fabrics(dc(3), a=bad, b=bad)) == ["b.conf:3"]


def test_old_mistake_in_a_file_that_was_edited_refuses_a_reload() -> None:
    bad = dc(2) + "junk\n"
    assert reloaded(fabrics(dc(1), a=bad), fabrics(dc(1), a=bad + dc(3))) == ["a.conf:3"]
