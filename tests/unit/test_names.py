"""Which names are photos, which are RAW, and which are something else."""

from __future__ import annotations

import pytest

from bibwatch.ingest.names import Kind, is_ignored_folder, kind_of

PHOTOS = [
    "IMG_0001.JPG",
    "img_0001.jpg",
    "DSC01234.jpeg",
    "x.jpe",
    "x.png",
    "x.PNG",
    "x.webp",
    "x.tif",
    "x.TIFF",
    "x.heic",
    "x.HEIF",
    "0042.jpg",
    "finish line 10.15.jpg",
    "IMG_0001 (1).jpg",
    "IMG_0001.JPG.1",  # pure-ftpd AutoRename
    "IMG_0001.JPG.23",
    "IMG_0001.jpg.999",
    "IMG.2026.11.21.jpg",
    "IMG_0001.CR3.jpg",
    "two\nlines.jpg",
    "\udcff.jpg",
    "Zieleinlauf ü.jpg",
    "a.tmp.jpg",
    "~.jpg",
]

RAWS = [
    "IMG_0001.CR2",
    "IMG_0001.cr3",
    "x.crw",
    "DSC_0001.NEF",
    "x.nrw",
    "DSC01234.ARW",
    "x.sr2",
    "DSCF0001.RAF",
    "x.orf",
    "x.rw2",
    "x.dng",
    "x.pef",
    "x.srw",
    "x.3fr",
    "IMG_0001.CR3.1",
]

OTHERS = [
    # servers' and clients' temporary names
    ".in.IMG_0001.JPG.",  # proftpd HiddenStores
    ".in.IMG_0001.JPG",
    ".pureftpd-upload.5f0c.15.2b1f.jpg",
    ".pureftpd-upload.65b1c2d3.15.1a2b.c0ffee",
    ".sftpgo-upload.c1a2b3.IMG_0001.JPG",
    ".IMG_0001.JPG.Xa81bQ",  # rsync
    ".syncthing.IMG_0001.JPG.tmp",
    "IMG_0001.JPG.filepart",  # WinSCP
    "IMG_0001.JPG.part",
    "IMG_0001.JPG.partial",
    "IMG_0001.JPG.tmp",
    "IMG_0001.JPG.TMP",
    "IMG_0001.tmp",
    "IMG_0001.JPG.crdownload",
    "IMG_0001.JPG.download",
    "IMG_0001.JPG.upload",
    "IMG_0001.JPG.part.1",
    "IMG_0001.JPG.swp",
    "IMG_0001.JPG~",
    # desktops
    "._IMG_0001.JPG",
    ".DS_Store",
    ".hidden.jpg",
    "Thumbs.db",
    "desktop.ini",
    # sidecars and other files of a card
    "IMG_0001.xmp",
    "IMG_0001.JPG.xmp",
    "IMG_0001.THM",
    "IMG_0001.WAV",
    "MVI_0001.MP4",
    "M0100.CTG",
    "AUTPRINT.MRK",
    "results.csv",
    "notes.txt",
    # no suffix of a photo at all
    "",
    ".",
    "jpg",
    ".jpg",
    "IMG_0001",
    "IMG_0001.jpgx",
    "IMG_0001.JPG.1234",  # no AutoRename counts so far
    "IMG_0001.1",
    "IMG_0001.JPG.bak",
    "photo.jpg ",
]


@pytest.mark.parametrize("name", PHOTOS)
def test_photos(name: str) -> None:
    assert kind_of(name) is Kind.PHOTO


@pytest.mark.parametrize("name", ["IMG_0001.HIF", "DSC01234.hif"])
def test_cameras_heif_photos(name: str) -> None:
    assert kind_of(name) is Kind.PHOTO


@pytest.mark.parametrize("name", RAWS)
def test_raw_photos(name: str) -> None:
    assert kind_of(name) is Kind.RAW


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(name: str) -> None:
    assert kind_of(name) is Kind.OTHER


@pytest.mark.parametrize("suffix", [".filepart", ".part", ".tmp", ".crdownload", ".upload"])
def test_the_final_name_of_a_temporary_file_is_a_photo(suffix: str) -> None:
    assert kind_of("IMG_0001.JPG" + suffix) is Kind.OTHER
    assert kind_of("IMG_0001.JPG") is Kind.PHOTO


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
        "lost+found",
        ".Trashes",
        ".stfolder",
        ".stversions",
        ".thumbnails",
        ".git",
    ],
)
def test_ignored_folders(name: str) -> None:
    assert is_ignored_folder(name)


@pytest.mark.parametrize("name", ["DCIM", "100CANON", "10051121", "finish line", "x.jpg", "eaDir", "\udcff"])
def test_folders_that_are_looked_into(name: str) -> None:
    assert not is_ignored_folder(name)
