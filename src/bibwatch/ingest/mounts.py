"""The file system a folder is on, and whether it must be polled.

On a network mount, the kernel reports no changes made by other machines.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_POLLED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "ncpfs",
     "davfs", "vboxsf", "vmhgfs", "prl_fs", "virtiofs", "drvfs", "fuse"}
)  # fmt: skip


def type_of(folder: Path, mountinfo: str | None = None) -> str:
    """Return the type of the file system that holds `folder` (`ext4`, `nfs4`, `fuse.sshfs`), "" if unknown."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    target, found, depth = os.path.realpath(folder), "", -1
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= depth:  # the last of several mounts on one folder hides the others
            found, depth = right.split(" ")[0], len(point)
    return found


def is_polled(folder: Path) -> bool:
    """Return whether changes in `folder` may come without events."""
    kind = type_of(folder)
    return kind in _POLLED or kind.startswith("fuse.")
