# SPDX-License-Identifier: Apache-2.0
"""``discoverctl confirm``: an administrator's word that a log page rightly lists less than before.

Only the daemon decides and only workers disconnect, so this leaves the word where the daemon finds it.
"""

from discoverd import state, store
from discoverd.cli import text, wake
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller
from discoverd.cli.plan_file import PlanFile


def confirm(chosen: list[Controller], plan: PlanFile, dry_run: bool) -> Exit:
    """Have disconnected what the log pages of these discovery controllers no longer list, or only show what that is.

    Raises CliError where nothing waits to be confirmed, or discoverd does not answer.
    """
    if plan.fault:
        raise CliError(plan.fault)
    for one in chosen:
        if one.waits_for:
            instance = text.quoted(one.waits_for)
            raise CliError(f"{one.name} waits for its discovery controller: discoverctl confirm {instance}", Exit.USAGE)
        if one.name not in plan.pending:
            raise CliError(
                f"nothing that {one.name} has listed waits to be confirmed; to see what it lists: discoverctl why "
                f"{text.quoted(one.name)}"
            )
    for one in chosen:
        pending = plan.pending[one.name]
        for unit in pending:
            text.line(f"{unit}: no longer listed, {'would be' if dry_run else 'is'} disconnected unless it is in use")
        if not dry_run:
            _tell(one.name, pending)
    return Exit.OK


def _tell(instance: str, pending: tuple[str, ...]) -> None:
    try:
        path = store.confirm(instance, pending)
    except state.StateError as error:
        raise CliError(f"cannot tell discoverd: {error}; free space there, and try again") from None
    try:
        wake.tell(instance.encode(), path)
    except OSError:
        raise CliError("discoverd does not answer, so nothing is confirmed; see: systemctl status discoverd") from None
    finally:
        # Also when it is interrupted: nobody must act on it later.
        store.take_confirmation(instance)
