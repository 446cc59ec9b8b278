# SPDX-License-Identifier: Apache-2.0
"""One visit to a discovery controller: what is asked in one go, in a thread, and what came of it."""

from discoverd.kernel import admin, controllers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.state import Spec

# What one visit may cost (seconds), whatever the controller does.
VISIT_TIMEOUT_SECONDS = 60


class Interrogation:
    """What is asked, and what came of it.

    ``fresh``: on a new connection; ``connection`` is another text for each. ``dctype`` is ``none``, ``ddc``, ``cdc``,
    or '' if it is not known; ``identity`` is None if it was not needed or not given; ``specific`` is how the log page
    was asked for. Of the questions that the page does not depend on, ``answered`` tells that one had an answer,
    ``silent`` that one had none.
    """

    __slots__ = (
        "_address",
        "_ask",
        "_automatic",
        "_most",
        "_port_local",
        "answered",
        "connection",
        "dctype",
        "fresh",
        "identity",
        "log",
        "silent",
        "specific",
    )

    def __init__(self, spec: "Spec", before: "Interrogation | None", fresh: bool, connection: str, ask: bool) -> None:
        self._automatic = spec.persistent == "auto"
        self._port_local = spec.pleo
        self._most = admin.READ_ENTRIES if spec.trusted else admin.READ_UNTRUSTED_ENTRIES
        self._address = spec.option("transport"), spec.option("traddr"), spec.option("trsvcid")
        self.fresh = fresh or before is None
        self.connection = connection
        self._ask = ask
        self.dctype: str = before.dctype if before else ""
        self.identity: admin.Identity | None = before.identity if before else None
        self.specific: int = before.specific if before and spec.pleo else 0
        self.answered = self.silent = False
        self.log: admin.Log | None = None

    def run(self, device: str, sysfs_inode: int) -> None:
        """Ask. Raises AdminError and OSError, as admin.read_discovery_log."""
        with admin.Session(device, VISIT_TIMEOUT_SECONDS) as session:
            if controllers.sysfs_inode(device) != sysfs_inode:
                # The name is given again, and another's page would have what this one lists disconnected. It was opened
                # before: while the name is this one's, so is what was opened.
                raise FileNotFoundError(2, "the controller is gone")
            if self.fresh:
                self._look(session, device)
            try:
                self.log = admin.read_discovery_log(session, self.specific, self._most)
            except admin.RefusedError:
                if not self.specific:
                    raise
                # It announced what it does not keep.
                self.specific = 0
                self.log = admin.read_discovery_log(session, 0, self._most)
            if self._automatic and not self.may_persist():
                self._identify(session)
                self._try_keep_alive(session)

    def may_persist(self) -> bool:
        """Tell whether its entry in the page says that this connection can be persistent."""
        return self.log is not None and self.log.persistent(*self._address)

    def _look(self, session: admin.Session, device: str) -> None:
        """Find out how to ask for the log page, on a new connection."""
        self.identity = None
        # 'none', and what kernels before 5.18 have not got, are both ''.
        self.dctype = controllers.attribute(device, "dctype")
        if not self.dctype:
            self._identify(session)
        # A central discovery controller's own port has no storage.
        if self._port_local and self._ask and not self.silent and self.dctype in ("none", "ddc"):
            try:
                self.specific = admin.discovery_options(session) & admin.PORT_LOCAL
                self.answered = True
            except admin.AdminError:
                self.specific = 0
                self.answered = True
            except OSError:
                self.silent = True

    def _identify(self, session: admin.Session) -> None:
        if self.identity is not None or not self._ask or self.silent:
            return
        try:
            self.identity = admin.identify(session)
            self.dctype = self.dctype or self.identity.dctype
            self.answered = True
        except admin.AdminError:
            self.answered = True
        except OSError:
            self.silent = True

    def _try_keep_alive(self, session: admin.Session) -> None:
        if self.identity is None or not self.identity.announces or self.identity.keep_alive:
            return
        try:
            self.identity.keep_alive = admin.takes_keep_alive(session)
        except (OSError, admin.AdminError):
            # A connection that is lost just now says nothing about it.
            self.identity = None
            self.silent = True
