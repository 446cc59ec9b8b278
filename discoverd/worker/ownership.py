# SPDX-License-Identifier: Apache-2.0
"""Which controller in the kernel is a unit's, and whose it is.

Two records tell what a unit has connected: the registry that all orchestrators of a host share, in which an entry names
the unit, and the worker's last report, with the controller's name and its inode in sysfs. Of the fabrics options only
the target is a check of both: while a connection lasts, interfaces are renamed and host NQNs edited. What no record
knows is recognised by all of its options.
"""

import posix
import time

from discoverd import notify, registry, state
from discoverd.kernel import controllers

_BOOTTIME = 7
# Reasons to take a controller, from the best to the worst; with the last one it is left to somebody else.
_BOTH_RECORDS, _REPORT, _ENTRY, _OPTIONS, _NOT_OURS = range(5)


def find(instance: str, choices: list[dict[str, str]]) -> str:
    """Return the controller that a unit's worker takes instead of connecting one, '' if there is none in the kernel.

    ``choices`` has the fabrics options by which it is recognised where no record tells, the preferred ones first. If
    somebody else has the only one that fits, that is returned, and :class:`Ownership` says whose it is. Blocks on
    sysfs, the registry and reports; raises nothing.
    """
    device, inode = _reported(instance)
    best, chosen = (_NOT_OURS + 1, 0), ""
    for one in controllers.at_target(choices[0]):
        present = controllers.sysfs_inode(one.device)
        fitting = [controllers.matches(options, one) for options in choices]
        fits = True in fitting
        reported = present != 0 and (one.device, present) == (device, inode)
        recorded, other = _records(instance, one.device, present, fits and not reported)
        if recorded and one.device == device and not reported:
            # The report is of an earlier controller of this name, and so may be the entry.
            recorded = False
        reason = _reason(recorded, reported, fits, bool(other))
        rank = reason, fitting.index(True) if fits else len(choices)
        if present and rank < best:
            best, chosen = rank, one.device
    return chosen


def _reason(recorded: bool, reported: bool, fits: bool, others: bool) -> int:
    """Return why a controller is to be taken; more than _NOT_OURS where it is not.

    ``recorded``: its entry names the unit; ``reported``: so does the unit's own report; ``fits``: it has the options;
    ``others``: a record says that it is somebody else's.
    """
    if recorded:
        return _BOTH_RECORDS if reported else _ENTRY
    if not reported and not fits:
        return _NOT_OURS + 1
    if others:
        return _NOT_OURS
    return _REPORT if reported else _OPTIONS


def _records(instance: str, device: str, present: int, ask_reports: bool) -> tuple[bool, str]:
    """Return whether the entry of a controller names the unit, and who else has it by the records, '' for nobody."""
    try:
        owner = registry.retrieve(device, "owner")
        unit = registry.retrieve(device, "unit") or ""
    except OSError:
        return False, "somebody"
    other = _other_holder(instance, owner, unit)
    ours = not other and unit == _unit_of(instance)
    if not other and not ours and ask_reports:
        other = _reporter(instance, device, present)
    return ours, other


def _unit_of(instance: str) -> str:
    return f"nvme-ctrl@{instance}.service"


def _other_holder(instance: str, owner: str | None, unit: str) -> str:
    """Return who else has a controller by its entry: another tool, or another unit of ours; '' for nobody."""
    if owner not in (None, registry.OWNER, registry.FIRMWARE_OWNER):
        return owner
    other = state.instance_of(unit)
    return unit if other not in ("", instance) and state.exists(state.directory(other)) else ""


def _reporter(instance: str, device: str, present: int) -> str:
    """Return the other unit of ours that has reported this controller as its own last, '' if none has.

    For what no entry in the registry gives to a unit. Any tool can erase one, and its unit makes it again at its next
    look.
    """
    try:
        others = posix.listdir(state.CONTROLLERS)
    except OSError:
        return ""
    for other in others:
        if other != instance and present and _reported(other) == (device, present):
            return _unit_of(other)
    return ""


def _reported(instance: str) -> tuple[str, int]:
    """Return name and inode of the controller that a unit has reported as its own last, ('', 0) for none."""
    try:
        fields = dict(state.decode(state.REPORT, state.read(state.directory(instance) + "/report")))
        if not fields.get("device") or fields.get("owner"):
            return "", 0
        return fields["device"], state.number(fields.get("kernel-instance", ""))
    except state.StateError:
        return "", 0


def _does_not_count(instance: str, device: str, owner: str) -> bool:
    """Tell whether the supervisor has just found out that nobody of this owner's name looks after the controller."""
    try:
        fields = dict(state.decode(state.TAKE_BACK, state.read(state.directory(instance) + "/take-back")))
        age = time.clock_gettime(_BOOTTIME) - state.number(fields.get("milliseconds", "")) / 1000
    except state.StateError:
        return False
    return (fields.get("device"), fields.get("owner")) == (device, owner) and 0 <= age <= state.TAKE_BACK_SECONDS


def holder(instance: str, device: str) -> str:
    """Return who else has a controller by its entry, '' for nobody."""
    try:
        return _other_holder(instance, registry.retrieve(device, "owner"), registry.retrieve(device, "unit") or "")
    except OSError as error:
        return f"somebody (the registry is unreadable: {error.strerror})"


class Ownership:
    """The registry's entry of the worker's controller.

    ``foreign`` is who else has it, '' if it is ours. ``protected`` tells that it is ours to look after but not to
    disconnect: firmware asked for it, or somebody connected it without a word to the registry, and no administrator
    asks us for it.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._unit = _unit_of(instance)
        self.device = ""
        self.foreign = ""
        self.protected = False
        # The owner that we have entered, '' as long as there is no entry of ours.
        self._entered = ""
        self._found = False
        self._complaint = ""

    @property
    def firmware(self) -> bool:
        """Tell whether the registry has it as one that firmware asked for."""
        return self._entered == registry.FIRMWARE_OWNER

    def take(self, device: str, origin: str, found: bool) -> None:
        """Enter a controller, unless it is somebody else's. ``origin`` asks for it; ``found``: it was there before us.

        What the registry has about a name that was just given out is of the past, and does not count.
        """
        self.device = device
        # Lost and connected again, it is what it was, unless an administrator asks for it by now.
        firmwares = self._entered == registry.FIRMWARE_OWNER and origin != "configuration"
        self.foreign, self.protected = "", False
        self._entered, self._found = "", found
        if found:
            self.check(origin, taking=True)
        else:
            self.protected = firmwares or origin == registry.FIRMWARE_OWNER
            self._claim(registry.FIRMWARE_OWNER if self.protected else registry.OWNER)

    def check(self, origin: str, taking: bool = False) -> bool:
        """Look into the registry, and tell whether the controller has changed hands.

        An entry of ours that others have erased is made again. One that they have written over is theirs, until they
        take it away.
        """
        before = self.foreign
        try:
            owner = registry.retrieve(self.device, "owner")
            unit = registry.retrieve(self.device, "unit") or ""
            adopted = registry.retrieve(self.device, "adopted") is not None
            if before and owner == before and _does_not_count(self.instance, self.device, owner):
                owner, unit, adopted = None, "", False
        except OSError as error:
            self._complain(f"cannot read the entry of {self.device} in {registry.ROOT}: {error.strerror}")
            if not self._entered:
                self.foreign = f"somebody (the registry is unreadable: {error.strerror})"
            return before != self.foreign
        other = _other_holder(self.instance, owner, unit)
        if not other and unit != self._unit and not self._entered and (taking or before):
            other = _reporter(self.instance, self.device, controllers.sysfs_inode(self.device))
        self.foreign = other
        if other:
            self._entered = ""
        elif owner:
            # Who looks after what others connected may change, and it stays theirs.
            theirs = adopted and (unit == self._unit or origin != "configuration")
            self.protected = owner == registry.FIRMWARE_OWNER or theirs
            if unit == self._unit:
                self._entered = owner
            else:
                self._claim(owner)
        else:
            erased = bool(self._entered)
            if not erased:
                self.protected = origin == registry.FIRMWARE_OWNER or (self._found and origin != "configuration")
            firmware = registry.FIRMWARE_OWNER if origin == registry.FIRMWARE_OWNER else registry.OWNER
            if self._claim(self._entered or firmware) and erased:
                notify.log(notify.NOTICE, f"another tool erased {self.device} from the registry: entered it again")
        return before != self.foreign

    def forget(self) -> None:
        """Take our entry away, as the clean-up rule does a little later, unless the name is another's by now."""
        device, self.device, self.foreign = self.device, "", ""
        try:
            if not controllers.sysfs_inode(device) and registry.retrieve(device, "unit") == self._unit:
                registry.delete(device)
        except OSError as error:
            notify.log(notify.WARNING, f"cannot remove {device} from {registry.ROOT}: {error.strerror}")

    def _claim(self, owner: str) -> bool:
        """Enter the controller, and tell whether that worked."""
        try:
            registry.claim(self.device, owner, self._unit, self.protected and owner == registry.OWNER)
            self._entered, self._complaint = owner, ""
        except OSError as error:
            self._complain(f"cannot enter {self.device} into {registry.ROOT}: {error.strerror}")
            return False
        return True

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            notify.log(notify.ERROR, text)
