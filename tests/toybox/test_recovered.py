"""How far a word went to its subject is a share between the class word and the decoded photos."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.errors import InputError
from dti_repro.toybox.recovered import decoded_references, image_scores, shares

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_row_halfway_between_class_word_and_photos_went_half_of_the_way() -> None:
    start, photos = [0.1, 0.2, 0.0, 0.3], [0.9, 0.8, 1.0, 0.9]
    half = [(a + b) / 2 for a, b in zip(start, photos, strict=True)]
    uneven = [0.9, 0.2, 1.0, 0.3]  # two subjects are there, two have not begun
    images = pd.DataFrame({"class_word": start, "half": half, "uneven": uneven, "decoded references": photos})
    table = shares(images, "class_word", 0)
    assert table["way"].to_dict() == pytest.approx(
        {"class_word": 0.0, "half": 0.5, "uneven": 0.6, "decoded references": 1.0}
    )
    assert table.loc["half", ["low", "high"]].to_list() == pytest.approx([0.5, 0.5])
    low, high = table.loc["uneven", ["low", "high"]]
    assert low < 0.4 < 0.8 < high


def test_decoded_photos_are_close_to_the_others_of_their_subject() -> None:
    (score,) = decoded_references(StableDiffusion("toybox", None, None), ["bird"])
    assert 0.7 < score < 1


def test_results_that_are_not_there_are_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    with pytest.raises(InputError, match=r"scores\.csv does not exist: results=<out>/<experiment>"):
        image_scores(file, "class_word")
    file.write_text("row,concept,metric,mean\nti,bird,toybox_image,0.5\n")
    with pytest.raises(InputError, match="no toybox_image of row 'class_word'"):
        image_scores(file, "class_word")
    assert image_scores(file, "ti").loc["bird", "ti"] == 0.5


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/recovered.csv")), ids=lambda file: file.parent.name)
def test_what_is_stored_belongs_to_the_scores_beside_it(file: Path) -> None:
    stored = pd.read_csv(file, index_col="row")["image"].drop("decoded references")
    means = image_scores(file.with_name("scores.csv"), "class_word").mean()
    assert stored.to_dict() == pytest.approx(means[stored.index].to_dict(), abs=1e-4)
