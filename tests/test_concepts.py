"""Concepts of a folder, a collection and the toybox: their keys, and the index that lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dti_repro.artifacts import files
from dti_repro.config import build
from dti_repro.data.concept import Collection, ConceptSet, Folder, Toybox
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose


def test_the_home_folder_is_found_in_a_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    photo = tmp_path / "My Photos (1)" / "rex" / "a.png"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(photo)
    (tmp_path / "pets.yaml").write_text("rex: {class: dog}")
    (own,) = Folder("~/My Photos (1)/rex", initializer="dog").load()
    (one_of_many,) = Collection("~/pets.yaml", "~/My Photos (1)").load()
    assert own.images == one_of_many.images == (photo,)
    cfg = compose("train", ["concepts=folder", "concepts.path=~/My Photos (1)/rex", "concepts.initializer=dog"])
    assert build(cfg.concepts, ConceptSet).load()[0].images == (photo,)


def test_a_folder_with_spaces_and_parentheses_has_a_name_without(tmp_path: Path) -> None:
    assert Folder(str(tmp_path / "My Photos (1)"), initializer="dog").names() == ["My-Photos-1"]
    with pytest.raises(InputError, match=r"concepts\.name \(by default the folder's\) '\u732b' cannot be a file name"):
        Folder(str(tmp_path / "\u732b"), initializer="dog")


FOLDER = {"path": "photos", "initializer": "dog"}


@pytest.mark.parametrize(
    ("target", "settings", "key"),
    [
        ("Folder", {**FOLDER, "path": ["a", "b"]}, "path"),
        ("Folder", {**FOLDER, "initializer": ["a"]}, "initializer"),
        ("Folder", {**FOLDER, "name": {"a": 1}}, "name"),
        ("Folder", {**FOLDER, "placeholder": ["<a>"]}, "placeholder"),
        ("Folder", {**FOLDER, "property": None}, "property"),
        ("Collection", {"index": ["a"], "root": "b"}, "index"),
        ("Collection", {"index": "dreambooth", "root": "b", "names": {"a": 1}}, "names"),
        ("Collection", {"index": "dreambooth", "root": "b", "initializer_key": ["a"]}, "initializer_key"),
        ("Toybox", {"split": ["table"]}, "split"),
        ("Toybox", {"names": [["bird"]]}, "names"),
    ],
)
def test_a_key_of_the_wrong_type_is_named(target: str, settings: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=f"^concepts.{key} is .* is needed$"):
        build({"_target_": f"dti_repro.data.concept.{target}", **settings}, ConceptSet, "concepts").load()


def own_subjects(folder: Path) -> ConceptSet:
    return Toybox(root=str(folder))


def own_collection(folder: Path) -> ConceptSet:
    return Collection(str(folder / "subjects.yaml"), str(folder))


@pytest.mark.parametrize("read", [own_subjects, own_collection])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &x {class: dog}\nb: *x\n", "aliases"),
        ("a: {", "is no yaml"),
        ("[" * 400, "is no yaml"),
        ("- a\n", "is no mapping"),
        ("a: 5\n", "a: Input should be .*write an entry as"),
        ("a: {class: [x], initializer: [x], split: table, images: [a.png]}\n", "a"),
        ("a: {class: dog, initializer: dog, split: table, images: 5}\n", "a"),
        ("#" * (1 << 20) + "#", "larger than 1 MiB"),
    ],
    ids=["alias", "broken", "deep", "list", "entry", "words", "images", "large"],
)
def test_an_index_that_cannot_be_read_is_one_line(
    read: Callable[[Path], ConceptSet], content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "subjects.yaml").write_text(content)
    with pytest.raises(InputError, match=words) as error:
        read(tmp_path)
    assert "subjects.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_index_from_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_bytes(b"\xef\xbb\xbf" + b"rex: {class: dog}\r\n")
    assert files.read_yaml(tmp_path / "pets.yaml") == {"rex": {"class": "dog"}}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("rex: {class: dog, live: yes please}", "rex.live: Input should be a valid boolean"),
        ("rex: {initializer: dog}", "rex.class: Field required"),
        ("7: {class: dog}", "7.*: Input should be a valid string"),
        ("rex: {class: 7}", "rex.class: Input should be a valid string"),
        ("", "has no concepts"),
        ("../rex: {class: dog}", "cannot be a file name"),
    ],
)
def test_an_index_of_the_user(index: str, words: str, tmp_path: Path) -> None:
    pets = tmp_path / "pets.yaml"
    photo = tmp_path / "photos" / "tom" / "00.png"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(photo)
    pets.write_text("tom: {class: cat, live: true, initializer: tabby cat}")
    (tom,) = Collection(str(pets), str(tmp_path / "photos")).load()
    assert (tom.initializer, tom.class_word, tom.live) == ("tabby cat", "cat", True)
    pets.write_text(index)
    with pytest.raises(InputError, match=words) as error:
        Collection(str(pets), str(tmp_path / "photos"), "all").load()
    assert "\n" not in str(error.value)
