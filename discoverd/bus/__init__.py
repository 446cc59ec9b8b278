# SPDX-License-Identifier: Apache-2.0
"""The one place that names a D-Bus client: dbus-next, or its maintained, API-compatible successor dbus-fast."""

try:
    from dbus_next import BusType, Message, MessageType
    from dbus_next.aio import MessageBus
except ImportError:
    from dbus_fast import BusType, Message, MessageType
    from dbus_fast.aio import MessageBus

__all__ = ["BusType", "Message", "MessageBus", "MessageType"]
