"""Embeddings, photos, scores and manifests from elsewhere, whatever is in them: taken, or named in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from dti_repro.artifacts import embedding, files
from dti_repro.artifacts.embedding import load_embedding, load_state, save_embeddings, save_state
from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.scores import read_scores
from dti_repro.data.concept import Folder
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def image(**changes: object) -> dict[str, object]:
    right = {"file": "p000_s0.png", "prompt": "a <x>", "template": "a {}", "text": "a cat", "seed": 0}
    return {**right, "concepts": ["rex"], "expect": None, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../../secret.png"},
        {"file": "/etc/passwd"},
        {"file": "p000_s0.png\n"},
        {"file": 7},
        {"concepts": ["../up"]},
        {"concepts": 7},
        {"concepts": "rex"},
        {"prompt": "\ud800"},
        {"seed": "0"},
        {"expect": {"class": 7}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_manifest_from_elsewhere_names_no_file_elsewhere(changes: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest = {"generation": {}, "embedding_sha256": {}}
    path.write_text(json.dumps({**manifest, "images": [image()]}))
    assert Manifest.read(path).images[0].seed == 0
    path.write_text(json.dumps({**manifest, "images": [image(**changes)]}))
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest"):
        Manifest.read(path)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.safetensors"
    save_file({"<x>": torch.ones(1, 8)}, path)
    monkeypatch.setattr(embedding, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="is larger than"):
        load_embedding(path)
    monkeypatch.setattr(files, "MAX_JSON", 10)
    path.write_text('{"a": "bcdefghijk"}')
    with pytest.raises(InputError, match="is larger than"):
        read_json(path, "remove it")


def test_only_regular_files_that_can_be_read_are_read(tmp_path: Path) -> None:
    """A device never ends, and a pipe waits for its writer."""
    os.mkfifo(tmp_path / "pipe")
    for goal in (Path("/dev/zero"), tmp_path / "pipe"):
        link = tmp_path / goal.name / "manifest.json" if goal.parent != tmp_path else tmp_path / "manifest.json"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(goal)
        with pytest.raises(InputError, match=r"manifest\.json is not a regular file: delete its folder"):
            Manifest.read(link)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\): remove it"):
        read_json(tmp_path, "remove it")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        files.sha256(tmp_path)


def answers(read: Callable[[Path], object], path: Path) -> None:
    """The reader takes the file or says in one line that names it what is wrong."""
    try:
        read(path)
    except InputError as error:
        line = str(error)
    else:
        return
    assert str(path) in line
    assert "\n" not in line
    assert line.isprintable()


def spoiled(whole: bytes) -> st.SearchStrategy[bytes]:
    """A good file cut, with bytes changed, or anything at all."""
    cut = st.integers(0, len(whole)).map(lambda n: whole[:n])
    changed = st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=6)).map(
        lambda c: whole[: c[0]] + c[1] + whole[c[0] + len(c[1]) :]
    )
    return cut | changed | st.binary(max_size=200)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EMBEDDING = save({"<x>": torch.ones(2, 4)}, metadata={"format": "dti-repro-1"})


@few
@given(
    data=spoiled(EMBEDDING)
    | st.dictionaries(st.text(max_size=5), VALUES, max_size=3).map(
        lambda header: (text := json.dumps(header).encode()) and len(text).to_bytes(8, "little") + text + bytes(32)
    )
)
def test_any_embedding_file_is_taken_or_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(data)
    answers(load_embedding, path)


def picture(format: str, folder: Path) -> bytes:
    path = folder / f"whole.{format}"
    gradient = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    gradient.save(path)
    data = path.read_bytes()
    path.unlink()
    return data


@few
@given(data=st.data(), format=st.sampled_from(["png", "jpg", "tiff", "webp", "bmp"]))
def test_any_folder_of_photos_is_taken_or_named(
    data: st.DataObject, format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "not_a_file.png").mkdir()
    content = data.draw(spoiled(picture(format, folder)))
    name = data.draw(st.sampled_from(["a", "\u732b", "a b", "%s", "x" * 200]))
    (folder / f"{name}.{format}").write_bytes(content)
    answers(lambda path: [load_photo(p) for c in Folder(str(path), "rex", "cat").load() for p in c.images], folder)


SCORES = b"""file,template,text,seed,concept,metric,value,masked
p0.png,a {},a cat,0,rex,clip,0.25,0
p1.png,a {},a cat,1,rex,clip,0.5,1
"""
MANIFEST = json.dumps({"generation": {}, "embedding_sha256": {}, "images": [image(expect={"class": "cat"})]}).encode()


@few
@given(data=spoiled(SCORES) | st.lists(st.text(max_size=5), max_size=9).map(lambda r: SCORES + ",".join(r).encode()))
def test_any_score_file_is_taken_or_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    answers(read_scores, path)


@few
@example(data=b'{"images": [{"concepts": {"\\n": null}}]}')
@example(data=b'{"images": [{"concepts": {"\\u001b[31m": null}}]}')
@given(
    data=spoiled(MANIFEST)
    | VALUES.map(lambda v: json.dumps(v).encode())
    | VALUES.map(lambda v: json.dumps({"generation": {}, "embedding_sha256": {}, "images": v}).encode())
    | st.tuples(st.sampled_from(sorted(image())), VALUES).map(
        lambda c: json.dumps({"generation": {}, "embedding_sha256": {}, "images": [image(**dict([c]))]}).encode()
    )
    | st.just(b"[" * 100_000)
)
def test_any_manifest_is_taken_or_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    answers(Manifest.read, path)


def test_a_score_file_cut_at_a_line_is_no_whole_one(tmp_path: Path) -> None:
    """A row cut short is named; that whole rows are missing is seen by the digest beside it (test_evaluate)."""
    path = tmp_path / "a.csv"
    path.write_bytes(SCORES[:-5])
    with pytest.raises(InputError, match=r"a\.csv: line 3 is damaged"):
        read_scores(path)


def test_an_embedding_with_a_foreign_header_is_still_only_numbers(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_embeddings(path, "<x>", {"": torch.ones(1, 4)}, {"concept": "../../up"})
    assert load_embedding(path)[2]["concept"] == "../../up"


def test_a_header_that_nests_without_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(save({"x": torch.ones(2)}, metadata={"method_config": "[" * 100_000, "vectors": "1"}))
    answers(load_state, path)


def test_the_network_of_a_word_of_many_vectors_may_be_larger_than_vectors_are(tmp_path: Path) -> None:
    path, state = tmp_path / "e.safetensors", {"x": torch.zeros(5 << 20)}
    save_state(path, "<x>", state, {"method_config": "{}", "vectors": "7"})
    assert load_state(path)[2] == 7
    with pytest.raises(InputError, match="larger than 16 MiB"):
        load_embedding(path)
