"""Which files of a folder are photos, and what is said of the others."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import Image

from dti_repro.data.masks import check_masks
from dti_repro.data.photos import list_photos, load_photo, warn_about_photos
from dti_repro.errors import InputError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dti_repro.data.photos.find_spec", lambda name: None)


@pytest.mark.usefixtures("without_heif")
def test_files_that_are_no_photos_are_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "b.AVIF"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / name)
    for name in ("c.heic", "d.gif", "e.mp4", "a.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    moving(tmp_path / "f.gif")
    (tmp_path / "more").mkdir()
    assert [photo.name for photo in list_photos(tmp_path)] == ["a.jpg", "b.AVIF"]
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path.name}: 2 photos used, 1 caption (for templates=captions), 5 files ignored: "
        "c.heic (install pillow-heif), d.gif (save it as jpg or png), e.mp4 (not an image), "
        "f.gif (animated: save one frame as png), more (a folder)\n"
    )
    assert load_photo(tmp_path / "b.AVIF").size == (16, 16)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.AVIF").unlink()
    with pytest.raises(InputError, match=r"holds no image .*; ignored: a\.txt \(not an image\), c\.heic \(install "):
        list_photos(tmp_path)


def moving(path: Path) -> None:
    first, second = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    first.save(path, save_all=True, append_images=[second], lossless=True)


@pytest.mark.usefixtures("without_heif")
def test_a_phones_photo_with_a_wrong_name_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    with pytest.raises(InputError, match=r"a\.jpg is a HEIC file: install pillow-heif"):
        load_photo(tmp_path / "a.jpg")


def test_heic_is_read_whatever_its_name_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (32, 16), (200, 30, 30))).save(tmp_path / "a.heic")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.heic").read_bytes())
    for photo in list_photos(tmp_path):
        red, green, _ = load_photo(photo).getpixel((8, 8))
        assert load_photo(photo).size == (32, 16)
        assert red > 150 > 80 > green


def test_photos_that_need_a_look_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    moving(tmp_path / "b.webp")
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn
    Image.new("RGB", (100, 300)).save(tmp_path / "c.png", exif=exif)
    warn_about_photos("rex", list_photos(tmp_path), 40)
    assert capsys.readouterr().err == (
        "rex: look at b.webp (2 frames, of which the first is used), "
        "c.png (a panorama of 300 x 100 pixels, which a square shows little of)\n"
    )
    assert load_photo(tmp_path / "b.webp").getpixel((0, 0)) == (255, 0, 0)
    warn_about_photos("rex", [tmp_path / "a.png", tmp_path / "b.webp"], 64)
    assert "b.webp (2 frames, of which the first is used; 40 x 40 pixels, enlarged" in capsys.readouterr().err
    warn_about_photos("rex", [tmp_path / "c.png"], 100, whole=True)
    assert capsys.readouterr().err == ""


def test_exif_that_says_nothing_readable_costs_no_photo(tmp_path: Path) -> None:
    text = b"II*\0\x08\0\0\0" + b"\1\0" + b"\x12\1\2\0\2\0\0\0" + b"6\0\0\0" + b"\0\0\0\0"  # orientation "6"
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + text)
    Image.new("RGB", (40, 20)).save(tmp_path / "b.png", exif=b"Exif\0\0no tiff")
    for path in list_photos(tmp_path):
        assert load_photo(path).size == (40, 20)
    warn_about_photos("rex", list_photos(tmp_path), 16)


def test_a_photo_with_too_many_pixels_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one with half as many is read without a warning of an attack."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_photo(tmp_path / "a.png").size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(InputError, match=r"a\.png cannot be read: it has more than .* million pixels: make it smaller"):
        load_photo(tmp_path / "a.png")


def test_only_photos_names_are_said_when_there_is_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg")
    list_photos(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_photo_or_mask_that_is_postscript_inside_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "rex").mkdir()
    (tmp_path / "evil.png").write_bytes(POSTSCRIPT)
    (tmp_path / "rex" / "a.png").write_bytes(POSTSCRIPT)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"evil\.png cannot be read: not an image of the formats JPEG, PNG"):
        load_photo(tmp_path / "evil.png")
    with pytest.raises(InputError, match=r"rex/a\.png cannot be read: not an image"):
        check_masks(tmp_path, "rex", [tmp_path / "a.png"])
