# SPDX-License-Identifier: Apache-2.0
"""Whose a controller is: the worker's side of the registry that all orchestrators of a host share."""

from discoverd import notify, registry, state
from discoverd.kernel import controllers


class Ownership:
    """The registry's entry of the worker's controller.

    ``foreign`` is who else has it, '' if it is ours. ``spared`` tells that it is ours to look after but not to
    disconnect: firmware asked for it, or somebody connected it without a word to the registry, and no administrator
    asks us for it.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._unit = f"nvme-ctrl@{instance}.service"
        self.device = ""
        self.foreign = ""
        self.spared = False
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
        self.foreign, self.spared = "", False
        self._entered, self._found = "", found
        if found:
            self.check(origin)
        else:
            self.spared = firmwares or origin == registry.FIRMWARE_OWNER
            self._claim(registry.FIRMWARE_OWNER if self.spared else registry.OWNER)

    def check(self, origin: str) -> bool:
        """Look into the registry, and tell whether the controller has changed hands.

        An entry of ours that others have erased is made again. One that they have written over is theirs, until they
        take it away.
        """
        before = self.foreign
        try:
            owner = registry.retrieve(self.device, "owner")
            unit = registry.retrieve(self.device, "unit") or ""
            adopted = registry.retrieve(self.device, "adopted") is not None
        except OSError as error:
            self._complain(f"cannot read the entry of {self.device} in {registry.ROOT}: {error.strerror}")
            if not self._entered:
                self.foreign = f"somebody (the registry is unreadable: {error.strerror})"
            return before != self.foreign
        looked_after = owner in (registry.OWNER, registry.FIRMWARE_OWNER)
        sibling = self._sibling(unit) if looked_after else ""
        if owner and (sibling or not looked_after):
            self.foreign = sibling or owner
            self._entered = ""
        elif owner:
            self.foreign = ""
            self.spared = owner == registry.FIRMWARE_OWNER or (unit == self._unit and adopted)
            if unit == self._unit:
                self._entered = owner
            else:
                self._claim(owner)
        else:
            self.foreign = ""
            erased = bool(self._entered)
            if not erased:
                self.spared = origin == registry.FIRMWARE_OWNER or (self._found and origin != "configuration")
            firmware = registry.FIRMWARE_OWNER if origin == registry.FIRMWARE_OWNER else registry.OWNER
            if self._claim(self._entered or firmware) and erased:
                notify.log(notify.NOTICE, f"another tool erased {self.device} from the registry: entered it again")
        return before != self.foreign

    def forget(self) -> None:
        """Take our entry away, as the clean-up rule does a little later, unless the name is another's by now."""
        device, self.device, self.foreign = self.device, "", ""
        try:
            if not controllers.kernel_instance(device) and registry.retrieve(device, "unit") == self._unit:
                registry.delete(device)
        except OSError as error:
            notify.log(notify.WARNING, f"cannot remove {device} from {registry.ROOT}: {error.strerror}")

    def _claim(self, owner: str) -> bool:
        """Enter the controller, and tell whether that worked."""
        try:
            registry.claim(self.device, owner, self._unit, self.spared and owner == registry.OWNER)
            self._entered, self._complaint = owner, ""
        except OSError as error:
            self._complain(f"cannot enter {self.device} into {registry.ROOT}: {error.strerror}")
            return False
        return True

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            notify.log(notify.ERROR, text)

    def _sibling(self, unit: str) -> str:
        """Return the other unit of ours that holds this controller, asked for in another way, or ''."""
        instance = state.instance_of(unit)
        return unit if instance not in ("", self.instance) and state.exists(state.directory(instance)) else ""
