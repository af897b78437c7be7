"""A claim is decided by its rule alone: subjects with their training seeds averaged, both tests, enough of both."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from scipy import stats

from dti_repro.claims import claims
from dti_repro.config import CONF, validate
from dti_repro.errors import InputError
from dti_repro.experiments.claims.decide import claim_verdict, decide
from dti_repro.experiments.claims.evidence import read_evidence
from dti_repro.experiments.claims.rules import PACKAGED, Part, Rule, read_rules
from dti_repro.experiments.spec import parse_experiment
from dti_repro.experiments.statistics import minimum_detectable_difference
from tests.composed import composed

Scores = Mapping[str, Mapping[str, float]]  # row -> subject -> text score
Write = Callable[..., Path]
SUBJECTS = [f"s{k}" for k in range(8)]
PART = Part(
    says="dti has more text",
    results=("a", "b"),
    more={"row": "dti", "metric": "text"},
    less={"row": "ti", "metric": "text"},
)
RULE = Rule(name="x", says="DTI has more text", source="the paper", parts=(PART,))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, scores, seeds) -> the folder of all results, with one that has these scores."""

    def write_result(name: str, scores: Scores, seeds: list[int], weights: str = "0123456789") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        lines = [f"{row},{s},t,{v}" for row, by_subject in scores.items() for s, v in by_subject.items()]
        other = [f"{row},s0,other,9" for row in scores]
        (folder / "scores.csv").write_text("\n".join(["row,concept,metric,mean", *lines, *other]) + "\n")
        runs = {row: [f"runs/toybox/{row}/{weights}/seed_{seed}" for seed in seeds] for row in scores}
        about = {"experiment": {"image": "i", "text": ["t", "other"]}, "runs": runs}
        (folder / "provenance.json").write_text(json.dumps(about))
        (folder / "table.md").write_text("a table")
        return tmp_path

    return write_result


def scores(lead: float, subjects: list[str] = SUBJECTS) -> Scores:
    """TI's scores, and DTI's, which lead by `lead`, more or less."""
    ti = {name: 0.5 + 0.01 * k for k, name in enumerate(subjects)}
    return {"ti": ti, "dti": {name: ti[name] + lead + 0.001 * (-1) ** k for k, name in enumerate(subjects)}}


def verdict(root: Path) -> tuple[str, str]:
    (decision,) = decide([RULE], root)
    return decision.verdict, decision.findings[0].why


def test_a_claim_holds_does_not_or_is_undecided_as_its_subjects_say(write: Write) -> None:
    write("a", scores(0.1), [42])
    assert verdict(write("b", scores(0.1), [43, 44])) == ("holds", "")
    for name, lead, said in (("c", -0.1, "does not"), ("d", 0.0, "undecided")):
        rule = Rule(name="x", says="x", source="x", parts=(Part(**{**vars(PART), "results": (name,)}),))
        assert decide([rule], write(name, scores(lead), [1, 2, 3]))[0].verdict == said


def test_one_training_seed_five_subjects_or_no_result_decide_nothing(write: Write) -> None:
    root = write("a", scores(0.1), [42])
    assert verdict(root) == ("undecided", "1 training seed, 3 are needed")
    assert verdict(root / "nowhere") == ("not measured", "no scores.csv in a, b")
    write("b", scores(0.1, SUBJECTS[:5]), [43, 44])
    assert verdict(root) == ("undecided", "5 units, 6 are needed")


def test_training_seeds_are_averaged_by_subject_each_with_the_same_weight(write: Write) -> None:
    write("a", scores(0.1), [42])
    found = read_evidence(PART, write("b", scores(0.4), [43, 44]))
    assert found.seeds == (42, 43, 44)
    assert found.differences["s0"] == pytest.approx((0.1 + 2 * 0.4) / 3 + 0.001)
    assert set(found.differences.index) == {*SUBJECTS}


@pytest.mark.parametrize(
    ("seeds", "weights", "why"),
    [([43, 44], "fedcba9876", "a and b have different trainings of dti"), ([42, 43], "0123456789", "a and b share a")],
)
def test_results_of_other_weights_or_of_the_same_seed_are_not_averaged(
    seeds: list[int], weights: str, why: str, write: Write
) -> None:
    write("a", scores(0.1), [42])
    said, reason = verdict(write("b", scores(0.1), seeds, weights))
    assert said == "not measured"
    assert why in reason


def test_a_claim_holds_only_if_all_of_its_parts_do() -> None:
    assert claim_verdict(["holds", "holds"]) == "holds"
    assert claim_verdict(["holds", "undecided"]) == claim_verdict(["holds", "not measured"]) == "undecided"
    assert claim_verdict(["holds", "not measured", "does not"]) == "does not"
    assert claim_verdict(["not measured", "not measured"]) == "not measured"


def test_pairs_that_share_a_subject_count_as_their_subjects(tmp_path: Path) -> None:
    """Where a pair's value is the sum of what its two subjects bring, the jackknife gives back twice that."""
    own = dict(zip(SUBJECTS, np.random.default_rng(0).normal(size=8), strict=True))
    pairs = [(a, b) for k, a in enumerate(SUBJECTS) for b in SUBJECTS[k + 1 :]]
    lines = [f"{a},{b},{way},{own[a] + own[b] if way == 'x' else 0}" for a, b in pairs for way in "xy"]
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "paths.csv").write_text("\n".join(["a,b,path,spread", *lines]))
    keys = {"results": ("r",), "file": "paths.csv", "unit": ("a", "b"), "value": "spread", "trained": False}
    part = Part(says="x", more={"path": "x"}, less={"path": "y"}, **keys)
    found = read_evidence(part, tmp_path).differences
    assert found.to_dict() == pytest.approx({name: 2 * value for name, value in own.items()})


def test_a_share_a_factor_and_lines_left_out_are_what_the_rule_says(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    lines = ["w,near,bird,1", "w,near,the,1", "w,near,car,2", "w,far,bird,1", "w,far,of,1"]
    (tmp_path / "r" / "n.csv").write_text("\n".join(["word,by,found,rank", *lines]))
    keys = {"results": ("r",), "file": "n.csv", "unit": ("word",), "value": "found", "among": ("bird", "car")}
    part = Part(says="x", more={"by": "near"}, less={"by": "far"}, trained=False, times=0.5, **keys)
    assert read_evidence(part, tmp_path).differences["w"] == pytest.approx(2 / 3 - 0.5 * 0.5)
    without = Part(**{**vars(part), "without": {"rank": "2"}})
    assert read_evidence(without, tmp_path).differences["w"] == pytest.approx(0.5 - 0.25)


@pytest.mark.parametrize("n", [6, 12])
def test_the_smallest_difference_is_found_four_times_in_five(n: int) -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(size=n)
    difference = minimum_detectable_difference(sample) / sample.std(ddof=1)  # of a spread of 1
    drawn = rng.normal(difference, 1, size=(40_000, n))
    found = stats.ttest_1samp(drawn, 0, axis=1)
    assert ((found.pvalue < 0.05) & (found.statistic > 0)).mean() == pytest.approx(0.8, abs=0.01)
    assert np.isnan(minimum_detectable_difference([1.0]))
    assert np.isnan(minimum_detectable_difference([0.5] * 8))  # without a spread nothing says how small it could be


def test_the_twelve_rules_name_rows_and_scores_that_their_experiments_have() -> None:
    rules = read_rules(PACKAGED)
    assert len(rules) == len({rule.name for rule in rules}) == 12
    protocol = (CONF.resolve().parent / "PROTOCOL.md").read_text(encoding="utf-8")
    protocol = protocol.split("\n## Claims\n")[1].split("\n## ")[0]
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", protocol, re.MULTILINE)] == list(range(1, 13))
    for part in (part for rule in rules for part in rule.parts if part.results != ("mechanism",)):
        for name in part.results:
            content = OmegaConf.to_container(composed("benchmark", f"experiment={name}").experiment)
            experiment = parse_experiment(name, content, CONF / "searched.yaml")
            ways = [way.name for way in experiment.paths.ways] if experiment.paths else []
            rows = [row.name for row in experiment.rows]
            for side in (part.more, part.less):
                assert side.get("row", rows[0]) in rows
                assert "path" not in side or side["path"] in ways
                assert side.get("metric", "image") in ("image", "text")


def test_the_page_the_numbers_and_the_figure_are_the_same_bytes_again(write: Write, tmp_path: Path) -> None:
    write("a", scores(0.1), [42])
    write("b", scores(0.1), [43, 44])
    rules = tmp_path / "rules.yaml"
    sides = {"more": dict(PART.more), "less": dict(PART.less)}
    parts = [{"says": "more & more", "results": ["a", "b"], **sides}, {"says": "later", "results": ["c"], **sides}]
    rules.write_text(json.dumps({"claims": [{"name": "x", "says": "DTI | TI", "source": "me", "parts": parts}]}))
    for out in ("one", "two"):
        cfg = composed("claims", f"results={tmp_path}", f"rules={rules}", f"out={tmp_path / out}")
        claims(cfg, "dti claims")
    names = ["claims.md", "claims.csv", "claims.tex", "claims.png", "claims.pdf"]
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    text = (tmp_path / "one" / "claims.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[a\]\((.*?)\)", text)
    assert (tmp_path / "one" / linked[0]).resolve() == (tmp_path / "a" / "table.md").resolve()
    with (tmp_path / "one" / "claims.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["verdict"], line["part_verdict"]) for line in lines] == [
        ("undecided", "holds"),
        ("undecided", "not measured"),
    ]
    assert (lines[0]["units"], lines[0]["seeds"]) == ("8", "3")
    assert r"more \& more" in (tmp_path / "one" / "claims.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"claims": []}, "claims: "),
        ({"claims": [{"name": "x", "says": "x", "source": "x", "parts": [{"says": "x"}]}]}, r"parts\.0\.results"),
        ({"claim": []}, "claim"),
    ],
)
def test_wrong_rules_are_one_line_that_names_the_key(content: dict, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=rf"rules\.yaml: .*{words}") as error:
        read_rules(path)
    assert "\n" not in str(error.value)


def test_results_stay_below_their_folder(tmp_path: Path) -> None:
    part = {"says": "x", "results": ["../secret"], "more": {"row": "a"}, "less": {"row": "b"}}
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"claims": [{"name": "x", "says": "x", "source": "x", "parts": [part]}]}))
    with pytest.raises(InputError, match="cannot be a file name"):
        read_rules(path)
    with pytest.raises(InputError, match="rules is 3: the path of a yaml file"):
        validate("claims", composed("claims", "rules=3"))
    with pytest.raises(InputError, match=r"results=.* is no folder"):
        claims(composed("claims", f"results={tmp_path / 'nowhere'}"), "dti claims")


def test_results_whose_provenance_is_about_other_scores_are_refused(write: Write) -> None:
    root = write("a", scores(0.1), [42, 43, 44])
    about = json.loads((root / "a" / "provenance.json").read_text())
    (root / "a" / "provenance.json").write_text(json.dumps({**about, "scores_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"is about other scores than scores\.csv"):
        verdict(root)


def test_a_part_rests_on_the_training_seeds_that_both_rows_have(write: Write) -> None:
    root = write("a", scores(0.1), [42, 43, 44])
    file = root / "a" / "provenance.json"
    about = json.loads(file.read_text())
    about["runs"]["ti"] = about["runs"]["ti"][:1]
    file.write_text(json.dumps(about))
    assert read_evidence(PART, root).seeds == (42,)
    assert verdict(root)[0] == "undecided"
