"""What systemd is told: READY, STATUS, WATCHDOG, STOPPING. Without systemd these are no-ops.

The protocol is one datagram to the socket in NOTIFY_SOCKET (sd_notify(3)).
"""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send one message, such as `READY=1`; systemd's absence is not an error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(message.encode(), address)
        except OSError:
            return  # systemd will notice by itself


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear from us (WatchdogSec=), or None if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdigit() and meant_for_us else None
