"""Experiments are checked before anything runs, a search treats its methods alike, and AdamW's noise norm is
AdamW's."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from dti_repro.benchmark import _search_result, main
from dti_repro.config import CONF
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun, load_run
from dti_repro.experiments.jobs import choose_rows, group_into_sweeps
from dti_repro.experiments.search import best_rows, quality, scaled, write_searched
from dti_repro.experiments.spec import Experiment, RowSpec, parse_experiment
from dti_repro.experiments.training_columns import norms_on_noise
from dti_repro.metrics.catalogue import metric_config
from tests.composed import composed

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
BASE = {
    "title": "t",
    "setup": [],
    "metrics": {"i": "image", "t": "text"},
    "image": "i",
    "text": ["t"],
    "rows": [{"name": "ti", "overrides": ["method=ti"]}, {"name": "dti", "overrides": ["method=dti"]}],
}
CLAIM = {"better": "dti", "worse": "ti", "says": "more", "source": "me", "metrics": ["t"]}
NAMES = [path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))]
NOWHERE = Path("nowhere.yaml")


def content(name: str) -> dict:
    """Return an experiment of the project, with what it takes from another one."""
    return OmegaConf.to_container(composed("benchmark", f"experiment={name}").experiment)


def parse(change: dict, searched: Path = NOWHERE) -> Experiment:
    return parse_experiment("x", {**copy.deepcopy(BASE), **change}, searched)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"row": []}, "row is .*no such key"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows are called 'a'"),
        ({"rows": [{"name": "a", "label": "x"}, {"name": "b", "label": "x"}]}, "two rows are shown as 'x'"),
        ({"metrics": {"i": "image", "t": "image"}}, "two metrics are shown as 'image'"),
        ({"rows": [{"name": "a", "override": []}]}, "row 'a': override is .*no such key"),
        ({"rows": [{"overrides": []}]}, "row '0': name: a value is needed"),
        ({"rows": []}, r"rows is \[\]: it must not be empty"),
        ({"rows": [{"name": "a", "overrides": "method=ti"}]}, "row 'a': overrides is method=ti: it must be a list"),
        (
            {"rows": [{"name": "a", "kappa": {"fraction": "x", "of": "b"}}]},
            r"kappa\.fraction is x: it must be a valid number",
        ),
        ({"rows": [{"name": "a", "published": {"image": 0.5}}]}, r"row 'a': published\.source: a value is needed"),
        ({"setup": [{"a": 1}]}, r"setup\.0 is .*: it must be text"),
        ({"text": []}, r"text is \[\]"),
        ({"search": "yes"}, "search is yes: it must be true or false"),
        ({"claims": [{**CLAIM, "metrics": None}]}, r"claims\.0\.metrics is None: it must be a list"),
        ({"claims": [{**CLAIM, "metric": "t"}]}, r"claims\.0\.metric is t: there is no such key"),
        ({"claims": ["dti > ti"]}, r"claims\.0 is dti > ti: it must be a mapping"),
        ({"image": "z"}, "metric 'z'"),
        ({"baselines": ["z"]}, "'z' of baselines or a claim is no row"),
        ({"claims": [{**CLAIM, "metrics": ["z"]}]}, "metric 'z' of image, text or a claim"),
        ({"rows": [{"name": "a", "kappa": {"fraction": 0.1, "of": "b"}}, {"name": "b"}]}, "no row above it"),
        ({"search": True}, "needs a row with bound"),
        ({"training_seeds": [0, 0]}, "training_seeds has a seed twice"),
    ],
)
def test_a_wrong_experiment_is_one_clear_line(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(change)


def test_a_search_with_more_rows_for_one_method_is_refused() -> None:
    bounds = [{"name": b, "bound": b} for b in ("class", "description", "references")]
    rows = [{"name": f"{m}{i}", "method": m} for m, n in (("ti", 2), ("dti", 3)) for i in range(n)]
    with pytest.raises(InputError, match="ti 2, dti 3"):
        parse({"search": True, "rows": [*bounds, *rows]})


def test_searched_rows_take_what_the_search_wrote(tmp_path: Path) -> None:
    bounds = [{"name": b, "bound": b} for b in ("class", "description", "references")]
    rows = [{"name": f"ti{i}", "method": "ti", "overrides": ["method=ti", f"optim.lr={i}"]} for i in (1, 2, 3)]
    experiment = parse({"search": True, "rows": [*bounds, *rows]})
    scores = {"image": 0.5, "text": 0.5, "criterion": 0.5}
    found = {"ti1": {"image": 1.0, "text": 0.1, "criterion": 0.3}, "ti2": scores, "ti3": scores}
    path = tmp_path / "searched.yaml"
    best = best_rows([row for row in experiment.rows if row.method], found)
    assert [row.name for row in best.values()] == ["ti2"]
    write_searched(path, best, found)
    again = parse({"rows": [{"name": "ti", "searched": "ti"}]}, path)
    assert again.rows[0].overrides == ("method=ti", "optim.lr=2")
    other = RowSpec("dti1", overrides=("method=dti",), method="dti")
    write_searched(path, {"dti": other}, {"dti1": scores})  # another search, of another method
    both = parse({"rows": [{"name": method, "searched": method} for method in ("ti", "dti")]}, path)
    assert [row.overrides for row in both.rows] == [("method=ti", "optim.lr=2"), ("method=dti",)]


def test_searched_rows_are_left_out_before_there_was_a_search(tmp_path: Path) -> None:
    claims = [{**CLAIM, "worse": w} for w in ("ti", "ti_searched")]
    rows = [*BASE["rows"], {"name": "ti_searched", "searched": "ti"}]
    experiment = parse({"rows": rows, "claims": claims, "baselines": ["ti", "ti_searched"]})
    assert [row.name for row in experiment.rows] == ["ti", "dti"]
    assert [claim.worse for claim in experiment.claims] == ["ti"]
    assert experiment.baselines == ("ti",)
    assert "1 searched rows are left out" in experiment.notes[0]
    (tmp_path / "searched.yaml").write_text("dti: {overrides: [method=dti]}")
    experiment = parse({"rows": rows, "claims": claims}, tmp_path / "searched.yaml")
    assert [row.name for row in experiment.rows] == ["ti", "dti"]
    assert "searched.yaml has no ti." in experiment.notes[0]


def test_the_criterion_is_the_geometric_mean_between_the_bounds() -> None:
    def means(**values: float) -> dict:
        return {metric: {"a": value - 0.1, "b": value + 0.1} for metric, value in values.items()}

    bounds = {
        "class": means(i=0.2),
        "description": means(t=0.8, u=1.0),
        "references": means(i=0.6),
        "mismatched": means(t=0.4, u=0.0),
    }
    result = quality("i", ["t", "u"], means(i=0.3, t=0.6, u=0.9), bounds)
    assert result == pytest.approx({"image": 0.25, "text": 0.7, "criterion": (0.25 * 0.7) ** 0.5})
    assert [scaled(value, 0.2, 0.6) for value in (9.0, -9.0)] == [1.0, 0.0]
    assert scaled(0.5, 0.6, 0.2) == 0.0  # bounds in the wrong order say nothing


def test_the_search_never_sees_table_subjects_or_prompts() -> None:
    search = yaml.safe_load((EXPERIMENTS / "search.yaml").read_text())
    table = yaml.safe_load((EXPERIMENTS / "main_table.yaml").read_text())
    assert "concepts.split=validation" in search["setup"]
    assert "concepts.split=table" in table["setup"]
    assert not {o for o in search["generate"] if "prompts" in o} & set(table["generate"])


def test_every_table_of_the_toybox_trains_with_the_registered_seeds() -> None:
    tables = {name: content(name).get("training_seeds") for name in NAMES if name.split("_")[0] not in ("sdxl", "sana")}
    once = {"capacity", "demo", "search", "methods_search", "trajectories", "adapters"}
    assert {name for name, seeds in tables.items() if seeds != [42, 43, 44]} == once


def test_a_seed_next_to_an_experiments_seeds_is_refused() -> None:
    experiment = parse({"training_seeds": [1, 2]})
    with pytest.raises(InputError, match=r"seed=3 and training_seeds=\[1, 2\]"):
        ExperimentRun(experiment, "runs", train=("seed=3",)).train_configs(experiment.rows[0])
    assert [cfg.seed for cfg in ExperimentRun(experiment, "runs").train_configs(experiment.rows[0])] == [1, 2]


def test_a_search_needs_two_photos_of_each_concept(tmp_path: Path) -> None:
    (tmp_path / "rex").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "rex" / "0.png")
    subject = {"initializer": "dog", "split": "validation", "description": "", "images": ["0.png"]}
    (tmp_path / "subjects.yaml").write_text(yaml.safe_dump({"rex": subject}))
    cfg = composed("benchmark", "experiment=search", f"setup=['concepts.root={tmp_path}']")
    with pytest.raises(InputError, match="concept 'rex' has one photo only"):
        load_run(cfg, "search", None)


@pytest.mark.parametrize("content", ["rows: [", "- 1"])
def test_a_broken_experiment_is_one_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "odd.yaml").write_text(content)
    monkeypatch.setattr("sys.argv", ["benchmark", "--config-dir", str(tmp_path), "experiment=odd"])
    with pytest.raises(SystemExit) as exit:
        main()
    said = capsys.readouterr().err
    assert (exit.value.code, said.count("\n")) == (2, 1)
    assert "odd" in said


@pytest.mark.parametrize("own", [{"train": ("+concepts.names=[cat]",)}, {"generate": ("concepts=folder",)}], ids=str)
def test_a_row_with_subjects_of_its_own_is_refused(own: dict) -> None:
    run = ExperimentRun(parse({}), "runs", **own)
    with pytest.raises(InputError, match=r"(row 'ti'|generate): .*concepts.*in setup"):
        run.check()


@pytest.mark.parametrize("rows", [[], {"ti": 1}, ["tii"], "tii", 7], ids=str)
def test_unknown_rows_are_one_line(rows: object) -> None:
    with pytest.raises(InputError, match=r"rows.*ti, dti") as error:
        choose_rows(parse({}), rows)
    assert "\n" not in str(error.value)
    assert [row.name for row in choose_rows(parse({}), ["dti"])] == ["dti"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", r"m\.yaml is no yaml .*line 1"),
        ("- 1", r"m\.yaml is no mapping"),
        ("\xff", r"m\.yaml is no yaml"),
        ("a: 1", r"m\.yaml has no _target_"),
        ("_target_: x", r"m\.yaml has no checkpoint"),
        ("_target_: x\nencoder: 3", r"m\.yaml has no checkpoint"),
        ("_target_: x\nencoder: {checkpoint: [1]}", r"m\.yaml has no checkpoint"),
    ],
)
def test_a_metrics_yaml_that_cannot_be_used_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=words) as error:
        metric_config(str(path))
    assert "\n" not in str(error.value)


def test_a_searched_yaml_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "searched.yaml"
    for text, words in (("ti: 3", "ti is 3: a mapping"), ("ti: {overrides: 3}", "overrides is 3"), ("[", "no yaml")):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"searched\.yaml.*{words}"):
            parse({"rows": [{"name": "ti", "searched": "ti"}]}, path)


@pytest.mark.parametrize(("lr", "times"), [(1e-3, 1.3), (5e-3, 5.0), (0.02, 19.0)])
def test_adamw_inflates_noise_as_was_measured(lr: float, times: float) -> None:
    optim = OmegaConf.merge(OmegaConf.load(CONF / "optim" / "adamw.yaml"), {"lr": lr})
    norms = norms_on_noise(optim, 0.32, dims=[256], steps=400)
    assert norms[-1] / norms[0] == pytest.approx(times, rel=0.15)
    assert norms[0] == pytest.approx(0.32)


def test_every_method_of_the_table_of_methods_has_six_searched_settings() -> None:
    searched = [row["searched"] for row in content("methods")["rows"] if "searched" in row]
    rows = [row for name in ("search", "methods_search") for row in content(name)["rows"]]
    assert Counter(row["method"] for row in rows if "method" in row) == dict.fromkeys(searched, 6)


@pytest.mark.usefixtures("composed_rows")
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_made_of_keys_and_metrics_that_exist(name: str) -> None:
    """The paper's tables on big models, too, which nobody can run on a whim."""
    run = ExperimentRun(parse_experiment(name, content(name), CONF / "searched.yaml"), "runs")
    for row in run.experiment.rows:
        if row.bound is None:
            run.train_configs(row)
    for metric in run.experiment.metrics:
        metric_config(metric)
    run.generate_config()


def test_a_search_needs_values_of_the_same_subjects_on_all_sides() -> None:
    sides = {"class": {"a": 0.0, "b": 0.0}, "references": {"a": 1.0, "b": 1.0}}
    bounds = {name: {"i": values} for name, values in sides.items()}
    bounds |= {"mismatched": {"t": {"b": 0.0}}, "description": {"t": {"b": 1.0}}}
    row = {"i": {"a": 0.2, "b": 0.4}, "t": {"a": 9.0, "b": 0.25}}
    assert quality("i", ["t"], row, bounds) == pytest.approx({"image": 0.3, "text": 0.25, "criterion": 0.075**0.5})
    bounds["description"] = {}
    with pytest.raises(InputError, match="no subject has a value of t in a row and in mismatched and description"):
        quality("i", ["t"], row, bounds)


def test_a_row_with_a_share_of_a_gradient_is_in_a_later_sweep_wherever_it_stands() -> None:
    rows = content("kappa")["rows"]
    shares = [row for row in rows if row.get("kappa")]
    rescaled = {"name": "ti_rescaled", "overrides": ["method=ti_rescaled"]}
    learned = [
        {"name": "ti", "overrides": ["method=ti"]},
        {**shares[0], "kappa": {"fraction": 0.1, "of": "ti"}},
        rescaled,
    ]
    run = ExperimentRun(parse({"rows": learned}), "runs")
    assert group_into_sweeps(run, run.experiment.rows) == [[["ti", "ti_rescaled"]], [[shares[0]["name"]]]]


@pytest.mark.usefixtures("composed_rows")
def test_a_search_that_was_changed_for_a_try_leaves_the_searched_settings_alone(tmp_path: Path) -> None:
    def where(*overrides: str) -> Path:
        cfg = composed("benchmark", "experiment=search", *overrides)
        return _search_result(cfg, load_run(cfg, "search", cfg.subjects), tmp_path)

    assert where() == where("train=[trainer.threads=1]") == CONF / "searched.yaml"
    for change in ("subjects=2", "train=[trainer.steps=20]", "generate=[steps=2]"):
        assert where(change) == tmp_path / "searched.yaml"
    assert where("subjects=2", f"searched={tmp_path}/mine.yaml") == tmp_path / "mine.yaml"
