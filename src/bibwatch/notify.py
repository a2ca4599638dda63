"""Notifications to systemd: READY, STATUS, WATCHDOG, STOPPING. Without systemd these are no-ops.

Each is one datagram to the socket in NOTIFY_SOCKET; see sd_notify(3).
"""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send one message, such as `READY=1`. Does nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(message.encode(), address)
        except OSError:
            return  # if systemd misses the messages, its own timeouts apply


def watchdog_seconds() -> float | None:
    """Return the watchdog interval that systemd set for this process (WatchdogSec=), or None."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdigit() and is_ours else None
