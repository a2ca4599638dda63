"""Which file system holds a folder, from the kernel's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from bibwatch.ingest import mounts

TABLE = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /srv/nfs rw,relatime shared:20 - nfs4 server:/export rw,vers=4.2,addr=10.0.0.2
31 22 0:41 / /srv/smb rw,relatime shared:21 master:3 - cifs //nas/photos rw,username=x
32 22 0:42 / /srv/ssh rw,nosuid,nodev - fuse.sshfs user@host:/ rw,user_id=0
33 22 8:17 / /media/card rw,nosuid - vfat /dev/sdb1 rw,uid=1000
34 33 0:43 / /media/card/DCIM/remote rw - nfs server:/dcim rw
35 22 8:33 / /media/my\040card\011a\134b rw - exfat /dev/sdc1 rw
36 22 8:49 / /srv/drop rw - xfs /dev/sdd1 rw
37 36 0:44 / /srv/drop rw - nfs4 server:/drop rw
38 22 0:45 / /srv/nfsold rw - ext4 /dev/sde1 rw
39 22 0:46 /sub/volume /data rw - btrfs /dev/sdf1 rw,subvol=/sub/volume
""".lstrip("\n")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/home/timer/drop", "ext4"),
        ("/srv", "ext4"),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/finish/DCIM", "nfs4"),
        ("/srv/nfs2", "ext4"),  # begins like a mount, and is none
        ("/srv/nfsold/x", "ext4"),
        ("/srv/smb/finish", "cifs"),
        ("/srv/ssh/finish", "fuse.sshfs"),
        ("/media/card", "vfat"),
        ("/media/card/DCIM/100CANON", "vfat"),
        ("/media/card/DCIM/remote/x", "nfs"),  # a mount inside a mount
        ("/media/my card\ta\\b/DCIM", "exfat"),  # octal escapes
        ("/srv/drop", "nfs4"),  # a mount over a mount
        ("/srv/drop/finish", "nfs4"),
        ("/data/x", "btrfs"),
        ("/srv/nfs/../smb", "cifs"),
    ],
)
def test_type_of(folder: str, kind: str) -> None:
    assert mounts.type_of(Path(folder), TABLE) == kind


def test_a_mount_made_inside_a_covering_mount_counts() -> None:
    table = TABLE + "40 22 0:47 / /media rw - nfs4 server:/media rw\n41 40 8:65 / /media/card rw - ext4 /dev/sdg1 rw\n"
    assert mounts.type_of(Path("/media/card/DCIM"), table) == "ext4"


def test_a_name_that_is_not_utf8() -> None:
    table = TABLE + "40 22 0:47 / /media/\udcff rw - nfs4 server:/x rw\n"
    assert mounts.type_of(Path("/media/\udcff/finish"), table) == "nfs4"


def test_a_link_into_a_mount_counts_as_the_mount(tmp_path: Path) -> None:
    real = tmp_path / "mounted"
    real.mkdir()
    (tmp_path / "finish").symlink_to(real)
    table = TABLE + f"40 22 0:47 / {real} rw - cifs //nas/x rw\n"
    assert mounts.type_of(tmp_path / "finish", table) == "cifs"


def test_without_a_mount_table_the_type_is_unknown() -> None:
    assert mounts.type_of(Path("/srv"), "") == ""


def test_the_kernels_own_table_is_read() -> None:
    assert mounts.type_of(Path("/proc/self")) == "proc"


def test_a_system_without_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert mounts.type_of(Path("/srv")) == ""
    assert not mounts.is_polled(Path("/srv"))


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "davfs",
        "vboxsf",
        "virtiofs",
        "fuse",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.glusterfs",
        "fuse.gvfsd-fuse",
    ],
)
def test_network_and_shared_folders_are_polled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "type_of", lambda _: kind)
    assert mounts.is_polled(Path("/srv"))


@pytest.mark.parametrize(
    "kind", ["", "ext4", "xfs", "btrfs", "zfs", "f2fs", "vfat", "exfat", "ntfs3", "fuseblk", "tmpfs", "overlay"]
)
def test_local_folders_have_events(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "type_of", lambda _: kind)
    assert not mounts.is_polled(Path("/srv"))
