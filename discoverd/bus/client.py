# SPDX-License-Identifier: Apache-2.0
"""The one place that names a D-Bus client: dbus-next, or its maintained, API-compatible successor dbus-fast."""

try:
    from dbus_next import Message, MessageType, Variant
    from dbus_next.aio import MessageBus
except ImportError:
    from dbus_fast import Message, MessageType, Variant
    from dbus_fast.aio import MessageBus

__all__ = ["Message", "MessageBus", "MessageType", "Variant"]
