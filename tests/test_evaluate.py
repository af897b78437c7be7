"""Evaluate computes what is missing, once, from what lies in the folders; bad input is answered before
weights load."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from dti_repro.artifacts.lock import BusyError
from dti_repro.artifacts.manifest import Manifest, ManifestImage
from dti_repro.artifacts.scores import ScoreRow, read_scores, write_scores
from dti_repro.data.concept import Concept
from dti_repro.errors import InputError
from dti_repro.evaluate import chosen_metrics, manifests, summary
from dti_repro.metrics import evaluator
from dti_repro.metrics.evaluator import ScoreFile, generated, mismatched, real_references, score
from dti_repro.metrics.similarity import ReferenceSimilarity
from tests.reference.test_metrics import save_reader


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one concept and four images, the concept's references, and two tiny metrics."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)

    for i in range(3):
        picture(root / "photos" / f"{i}.png")
    folder = root / "run" / "seed_42" / "rex" / "images" / "0123456789"
    prompts = [("a {} on a beach", {"class": "dog", "background": "beach"}), ("a {} in the sky", None)]
    images = []
    for p, (template, expect) in enumerate(prompts):
        for seed in (0, 1):
            text, name = template.replace("{}", "dog"), f"p{p:03d}_s{seed}.png"
            images.append(ManifestImage(name, template, template, text, seed, ("rex",), expect))
            picture(folder / name)
    Manifest({}, {}, tuple(images)).write(folder / "manifest.json")
    (root / "reader").mkdir()
    save_reader(root / "reader")
    weights = f"local-dir:{root / 'reader'}"
    similarity = {"_target_": "dti_repro.metrics.similarity.ReferenceSimilarity"}
    encoder = {"_target_": "dti_repro.metrics.encoders.TimmEncoder.load", "checkpoint": weights}
    (root / "image.yaml").write_text(yaml.safe_dump({**similarity, "encoder": encoder}))
    reading = {"_target_": "dti_repro.metrics.attributes.AttributeAccuracy", "checkpoint": weights}
    (root / "reading.yaml").write_text(yaml.safe_dump({**reading, "keys": ["class", "background"]}))
    return root


@pytest.fixture
def concept(world: Path) -> Concept:
    return Concept("rex", "<rex>", "dog", tuple(sorted((world / "photos").glob("*.png"))))


@pytest.fixture
def file(world: Path, concept: Concept, tmp_path: Path) -> ScoreFile:
    """The run's only generation, with a score file of the test's own."""
    return ScoreFile(tmp_path / "a.csv", items_of(world, concept))


def items_of(world: Path, concept: Concept) -> tuple[evaluator.Item, ...]:
    (manifest,) = manifests(world / "run")
    return generated(manifest, {"rex": concept}).items


def configs(world: Path, *names: str) -> dict:
    return chosen_metrics([str(world / f"{name}.yaml") for name in names], {})


def test_one_picture_and_one_photo_are_scored_like_many(world: Path, concept: Concept, file: ScoreFile) -> None:
    """One photo has no other to be compared with."""
    one = replace(file, items=file.items[:1])
    alone = real_references(replace(concept, images=concept.images[:1]), file.csv.with_name("real.csv"))
    assert score([one, alone], configs(world, "image", "reading")) == 4
    assert [row.metric for row in read_scores(one.csv)] == ["image", "reading"]
    assert read_scores(alone.csv) == []
    assert score([one, alone], configs(world, "image", "reading")) == 0


def test_a_busy_score_file_holds_up_no_other(world: Path, file: ScoreFile, tmp_path: Path) -> None:
    files = [replace(file, csv=tmp_path / f"{i}.csv") for i in range(3)]
    owner = "process 7 on elsewhere, since 2026-01-01T00:00:00Z"
    for busy in files[:2]:
        busy.lock.write_text(owner)
    with pytest.raises(BusyError, match=rf"1 columns .* 2 score files .*0\.csv is .* by {owner}; .*1\.csv is") as error:
        score(files, configs(world, "image"))
    assert "2.csv" not in str(error.value)
    assert len(read_scores(files[2].csv)) == 4


def test_what_changes_while_it_is_scored_is_scored_again(
    world: Path, file: ScoreFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Path(shutil.copy(file.items[0].path, tmp_path))
    file = replace(file, items=(replace(file.items[0], path=picture),))
    compute = evaluator._computed_rows

    def slow(*arguments: Any) -> Any:
        rows = compute(*arguments)
        Image.new("RGB", (16, 16), "red").save(picture)  # by another process
        return rows

    monkeypatch.setattr(evaluator, "_computed_rows", slow)
    with pytest.raises(BusyError, match=r"a\.csv: its images or photos changed while they were scored"):
        score([file], configs(world, "image"))
    monkeypatch.undo()
    assert score([file], configs(world, "image")) == 1
    assert score([file], configs(world, "image")) == 0


@pytest.mark.parametrize(
    "record", ['{"image": 3}', '{"image": {"inputs": 3}}', '{"image": {}}', "[]", '{"image": NaN}'], ids=str
)
def test_odd_records_of_a_score_file_are_scored_again(record: str, world: Path, file: ScoreFile) -> None:
    score([file], configs(world, "image"))
    digest = json.loads(file.provenance.read_text())["csv_sha256"]
    file.provenance.write_text(f'{{"csv_sha256": "{digest}", "metrics": {record}}}')
    assert file.missing(configs(world, "image")) == ["image"]


def test_the_summary_says_means_numbers_and_files(tmp_path: Path) -> None:
    rows = [ScoreRow("f", "t", "t", seed, "rex", "image", value) for seed, value in ((0, 0.25), (1, 0.5))]
    files = [ScoreFile(tmp_path / name / "0123456789.csv", ()) for name in ("rex", "tom")]
    write_scores(files[0].csv, [*rows, ScoreRow("f", "t", "t", 0, "rex", "other", 1.0)])
    write_scores(files[1].csv, [ScoreRow("f", "t", "t", 0, "tom", "text", 1.0)])
    assert summary(files, ["image", "text"]).split("\n") == [
        "generation 0123456789, mean (number of values):",
        "",
        "| concept | image     | text      |",
        "| ------- | --------- | --------- |",
        "| rex     | 0.375 (2) |           |",
        "| tom     |           | 1.000 (1) |",
        "",
        "score files:",
        f"  {files[0].csv}",
        f"  {files[1].csv}",
        "",
    ]


def test_a_row_for_each_image_and_metric_and_none_where_nothing_is_expected(world: Path, file: ScoreFile) -> None:
    assert score([file], configs(world, "image", "reading")) == 2
    rows = read_scores(file.csv)
    names = ["p000_s0.png", "p000_s1.png", "p001_s0.png", "p001_s1.png"]
    assert [r.file for r in rows if r.metric == "image"] == names
    assert [r.file for r in rows if r.metric == "reading"] == names[:2]
    assert {r.text for r in rows} == {"a dog on a beach", "a dog in the sky"}
    assert json.loads(file.provenance.read_text())["metrics"]["image"]["versions"]["torch"] == version("torch")


def test_a_label_that_no_metric_can_read_is_found_before_the_first_file_is_scored(
    world: Path, file: ScoreFile, tmp_path: Path
) -> None:
    wrong = replace(file.items[0], expect=(("background", "moon"),))
    with pytest.raises(InputError, match="the attribute reader has no background 'moon'"):
        score([file, ScoreFile(tmp_path / "b.csv", (wrong,))], configs(world, "reading"))
    assert not file.csv.exists()


def test_only_what_is_missing_is_computed(world: Path, file: ScoreFile) -> None:
    assert score([file], configs(world, "image")) == 1
    image_rows = read_scores(file.csv)
    assert score([file], configs(world, "image", "reading")) == 1
    assert [row for row in read_scores(file.csv) if row.metric == "image"] == image_rows
    before = file.csv.read_bytes()
    assert score([file], configs(world, "image", "reading")) == 0
    assert file.csv.read_bytes() == before


def test_changed_references_make_scores_old(world: Path, concept: Concept, file: ScoreFile) -> None:
    score([file], configs(world, "image", "reading"))
    fewer = replace(file, items=items_of(world, replace(concept, images=concept.images[:2])))
    assert score([fewer], configs(world, "image")) == 1
    assert {row.metric for row in read_scores(file.csv)} == {"image", "reading"}  # which reads no references
    other = replace(fewer, items=tuple(replace(item, text="a cat") for item in fewer.items))
    assert score([other], configs(world, "image")) == 1
    assert {row.metric for row in read_scores(file.csv)} == {"image"}  # the other metric's rows were another text's


def test_references_are_encoded_once_for_all_runs(
    world: Path, file: ScoreFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = ReferenceSimilarity.set_references
    monkeypatch.setattr(ReferenceSimilarity, "set_references", lambda *a: (calls.append(a[1]), original(*a))[1])
    score([replace(file, csv=tmp_path / f"{i}.csv") for i in range(3)], configs(world, "image"))
    assert len(calls) == 1


def test_real_references_are_scored_against_the_others_only(world: Path, concept: Concept, tmp_path: Path) -> None:
    file = real_references(concept, tmp_path / "real.csv")
    score([file], configs(world, "image"))
    values = {row.file: row.value for row in read_scores(file.csv)}
    model = timm.create_model(f"local-dir:{world / 'reader'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        features = model(torch.stack([transform(Image.open(p)) for p in concept.images]))
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    expected = (cosine.sum(dim=1) - 1) / 2  # without the photo itself
    assert list(values.values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_mismatched_scores_give_each_image_another_prompt(file: ScoreFile) -> None:
    shifted = mismatched(file)
    assert shifted.csv != file.csv
    assert [i.path for i in shifted.items] == [i.path for i in file.items]
    assert [i.text for i in shifted.items] == ["a dog in the sky"] * 2 + ["a dog on a beach"] * 2
    assert dict(shifted.items[2].expect) == {"class": "dog", "background": "beach"}


@pytest.fixture
def masks(concept: Concept, tmp_path: Path) -> Path:
    """A mask for each reference: the subject is the left half."""
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 20, 40))
    (tmp_path / "masks" / "rex").mkdir(parents=True)
    for photo in concept.images:
        mask.save(tmp_path / "masks" / "rex" / f"{photo.stem}.png")
    return tmp_path / "masks"


def test_masks_are_of_references_only(
    world: Path, concept: Concept, file: ScoreFile, masks: Path, tmp_path: Path
) -> None:
    """A masked score is that of references which were blackened beforehand; generations stay as they are, and each row
    says whether its references were masked."""
    black = tmp_path / "black"
    black.mkdir()
    for photo in concept.images:
        pixels = np.asarray(Image.open(photo)).copy()
        pixels[:, 20:] = 0
        Image.fromarray(pixels).save(black / photo.name)
    blackened = replace(concept, images=tuple(sorted(black.iterdir())))
    expected = ScoreFile(tmp_path / "expected.csv", items_of(world, blackened))
    score([expected, file], configs(world, "image", "reading"))
    plain = read_scores(file.csv)
    assert not any(row.masked for row in plain)
    assert score([file], configs(world, "image", "reading"), masks) == 1  # the reader sees no references
    rows = read_scores(file.csv)

    def image_values(rows: list[ScoreRow]) -> list[float]:
        return [row.value for row in rows if row.metric == "image"]

    assert image_values(rows) == image_values(read_scores(expected.csv))
    assert image_values(rows) != image_values(plain)
    assert {row.metric: row.masked for row in rows} == {"image": True, "reading": False}
    assert score([file], configs(world, "image", "reading"), masks) == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), r"1 of the 3 photos of rex have none, such as .*rex/1\.png"),
        (lambda path: Image.new("L", (40, 39), 255).save(path), r"rex/1\.png has 40 x 39 pixels, its photo 40 x 40"),
        (lambda path: Image.new("L", (40, 40), 0).save(path), r"rex/1\.png is all black"),
        (lambda path: Image.new("RGB", (40, 40), "white").save(path), r"rex/1\.png is all white"),
        (lambda path: Image.new("RGBA", (40, 40)).save(path), r"rex/1\.png is transparent"),
        (lambda path: path.write_text("hello"), r"rex/1\.png cannot be read"),
    ],
    ids=["missing", "size", "black", "white", "transparent", "text"],
)
def test_bad_masks_are_one_line_before_weights_load(
    spoil: Callable, words: str, world: Path, file: ScoreFile, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "build", lambda *_: pytest.fail("a metric was loaded"))
    spoil(masks / "rex" / "1.png")
    with pytest.raises(InputError, match=words) as error:
        score([file], configs(world, "image"), masks)
    assert "\n" not in str(error.value)


def test_a_concept_that_the_set_lacks_is_named(world: Path) -> None:
    (manifest,) = manifests(world / "run")
    with pytest.raises(InputError, match="'rex'"):
        generated(manifest, {})


@pytest.mark.parametrize("level", ["run", "run/seed_42", "run/seed_42/rex"])
def test_a_run_may_be_named_by_any_of_its_folders(world: Path, level: str) -> None:
    assert len(manifests(world / level)) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run=nowhere"], "run=nowhere"),
        (["run={run}", "metrics=[clip_i,clipp]"], "metric 'clipp' is unknown"),
        (["run={run}", "metrics=[]"], "metrics is []: a metric's name, a list of names or a set is needed"),
        (["run={run}", "generation=ffff"], "ffff"),
    ],
)
def test_bad_input_is_one_line_before_anything_heavy_loads(world: Path, overrides: list[str], words: str) -> None:
    arguments = [o.format(run=world / "run") for o in overrides]
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dti_repro.evaluate", *arguments],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert words in errors[0]
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "torch" not in imported
