# SPDX-License-Identifier: Apache-2.0
"""What of a specification everybody may know: who is connected to whom, and how; nothing that proves it."""

from discoverd import state

# Options of the fabrics device.
IDENTITY = ("transport", "traddr", "trsvcid", "nqn", "host_traddr", "host_iface", "hostnqn", "hostid")
TUNABLES = (
    *("nr_io_queues", "nr_write_queues", "nr_poll_queues", "queue_size", "keep_alive_tmo", "reconnect_delay"),
    *("ctrl_loss_tmo", "fast_io_fail_tmo", "tos", "duplicate_connect", "disable_sqflow", "hdr_digest", "data_digest"),
)
OPTIONS = (*IDENTITY, *TUNABLES)


def public(spec: state.Spec) -> state.Spec:
    """Return what of a specification everybody may know, whatever else is in it."""
    told = state.Spec(spec.role, [(key, value) for key, value in spec.options if key in OPTIONS])
    told.source, told.origin, told.note, told.symname = spec.source, spec.origin, spec.note, spec.symname
    told.withdrawn, told.trusted, told.give_up_after = spec.withdrawn, spec.trusted, spec.give_up_after
    told.announced_on, told.announced_until = spec.announced_on, spec.announced_until
    return told
