"""The published sets are those of their papers, and their words and prompts are those of the generated images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.run_dir import finished_concepts
from dti_repro.config import build, validate
from dti_repro.data.concept import Collection, ConceptSet, Folder
from dti_repro.data.prompts import PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import ImageFolder
from dti_repro.inference.selection import image_folders_of_run, image_folders_of_text, learned_subject
from dti_repro.training.runs import check_metadata, concept_metadata, hashed, update_metadata
from tests.composed import composed
from tests.e2e.trained import trained_run, vectors

# The classes of prompts_and_classes.txt (github google/dreambooth), CC BY 4.0.
DREAMBOOTH = """backpack,backpack backpack_dog,backpack bear_plushie,stuffed-animal berry_bowl,bowl can,can
candle,candle cat,cat cat2,cat clock,clock colorful_sneaker,sneaker dog,dog dog2,dog dog3,dog dog5,dog dog6,dog
dog7,dog dog8,dog
duck_toy,toy fancy_boot,boot grey_sloth_plushie,stuffed-animal monster_toy,toy pink_sunglasses,glasses poop_emoji,toy
rc_car,toy red_cartoon,cartoon robot_toy,toy shiny_sneaker,sneaker teapot,teapot vase,vase
wolf_plushie,stuffed-animal"""


def photos(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(root / name / "00.png")
    return root


def test_dreambooths_subjects_have_its_classes(tmp_path: Path) -> None:
    """Save one: the DTI paper calls glasses sunglasses."""
    theirs = dict(pair.replace("-", " ").split(",") for pair in DREAMBOOTH.split())
    concepts = Collection("dreambooth", str(photos(tmp_path, *theirs)), "all").load()
    ours = {concept.name: concept.class_word for concept in concepts}
    assert ours == {**theirs, "pink_sunglasses": "sunglasses"}
    assert {c.name for c in concepts if c.live} == {name for name, word in theirs.items() if word in ("cat", "dog")}
    assert sum(concept.live for concept in concepts) == 9
    assert all(concept.initializer == concept.class_word for concept in concepts)


def test_the_words_that_the_published_runs_gave_to_dti_alone_change_no_text_score(tmp_path: Path) -> None:
    photos(tmp_path, "duck_toy", "vase")
    root, names = str(tmp_path), ["duck_toy", "vase"]
    duck, vase = Collection("dreambooth", root, names, initializer_key="sana_dti").load()
    assert (duck.initializer, duck.class_word) == ("rubber duck", "toy")
    assert (vase.initializer, vase.class_word) == ("vase", "vase")


def test_styles_are_styles(tmp_path: Path) -> None:
    cfg = composed("train", "concepts=styledrop", f"concepts.root={tmp_path}", "concepts.names=all")
    photos(tmp_path, *build(cfg.concepts, ConceptSet).names())
    concepts = build(cfg.concepts, ConceptSet).load()
    assert len(concepts) == 23
    assert {concept.property for concept in concepts} == {"style"}
    assert {c.name: c.class_word for c in concepts if c.class_word != c.initializer} == {
        "style_21": "melting golden 3d rendering"
    }


@pytest.mark.parametrize(
    ("concepts", "kind"),
    [
        (["concepts=folder"], "photo of a"),
        (["concepts=folder", "concepts.property=style"], "in the style of"),
        (["concepts=styledrop"], "in the style of"),
        (["concepts=dreambooth"], "photo of a"),
        (["concepts=styledrop", "templates=object"], "photo of a"),
        (["concepts=styledrop", "backbone=toybox"], "photo of a"),
    ],
    ids=" ".join,
)
def test_the_property_chooses_the_prompts_of_training(
    concepts: list[str], kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    cfg = composed("train", "backbone=stable_diffusion", f"backbone.path={checkpoint}", *concepts)
    validate("train", cfg)
    used = hashed(cfg)["templates"]
    assert any(kind in template for template in used)
    other = "in the style of" if kind == "photo of a" else "photo of a"
    assert not any(other in template for template in used)


def test_photos_that_are_not_there_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m dti_repro\.download dreambooth"):
        Collection("dreambooth", str(tmp_path)).load()


@pytest.fixture
def drawing(checkpoint: Path) -> Callable[..., DictConfig]:
    """A configuration of generate with these overrides."""
    backbone = ["backbone=stable_diffusion", f"backbone.path={checkpoint}"]
    return lambda *overrides: composed("generate", *backbone, *overrides)


def templates(image_folder: ImageFolder) -> list[str]:
    return [image.template for image in image_folder.manifest.images]


def expected(prompts: PromptSet, live: bool) -> list[str]:
    return [prompt.template for prompt in (prompts.live if live else prompts.prompts)]


def test_living_concepts_have_other_prompts(drawing: Callable, tmp_path: Path) -> None:
    """For the words of concepts, and for a run, which keeps what its concepts were."""
    simple = load_prompts("simple")
    assert expected(simple, True) != expected(simple, False)
    root = photos(tmp_path / "data", "dog", "vase")
    concepts = ["concepts=dreambooth", f"concepts.root={root}", "concepts.names=[dog,vase]"]
    dog, vase = image_folders_of_text(drawing("text=class", "prompts=simple", *concepts))
    assert templates(dog) == expected(simple, True)
    assert templates(vase) == expected(simple, False)
    assert dog.path.name != vase.path.name
    run = trained_run(tmp_path / "runs", {"dog": vectors(0), "vase": vectors(1)})
    for concept in Collection("dreambooth", str(root), ["dog", "vase"]).load():
        (run / concept.name / "concept.json").write_text(json.dumps(concept_metadata(concept)))
    dog, vase = image_folders_of_run(finished_concepts(run), drawing(f"run='{run}'", "prompts=simple"))
    assert templates(dog) == expected(simple, True)
    assert templates(vase) == expected(simple, False)
    assert dog.manifest.images[0].prompt == simple.live[0].template.replace("{}", "<dog>")


def test_text_scores_read_the_class_where_the_word_began_elsewhere(drawing: Callable, tmp_path: Path) -> None:
    root = photos(tmp_path / "data", "duck_toy")
    run = trained_run(tmp_path / "runs", {"duck_toy": vectors(0)})
    (duck,) = Collection("dreambooth", str(root), ["duck_toy"], initializer_key="sana_dti").load()
    (run / "duck_toy" / "concept.json").write_text(json.dumps(concept_metadata(duck)))
    (image_folder,) = image_folders_of_run(finished_concepts(run), drawing(f"run='{run}'", "prompts=['a {} at night']"))
    assert image_folder.manifest.images[0].text == "a toy at night"


def test_what_only_prompts_need_can_be_corrected_after_training(tmp_path: Path) -> None:
    """Whether a concept lives changes no vector: the run is not another one."""
    root = photos(tmp_path / "data", "rex")
    (folder,) = finished_concepts(trained_run(tmp_path / "runs", {"rex": vectors(0)}))
    (rex,) = Folder(str(root / "rex"), initializer="dog").load()
    folder.metadata.write_text(json.dumps(concept_metadata(rex)))
    cfg = composed("train")
    (living,) = Folder(str(root / "rex"), initializer="dog", live=True).load()
    check_metadata(cfg, folder, living)
    assert not learned_subject(folder, folder.embedding).live
    folder.metadata.write_text(json.dumps({**concept_metadata(rex), "captions": ["a {}"]}))
    update_metadata(folder, living)  # as `train` and `benchmark` do
    assert learned_subject(folder, folder.embedding).live
    assert json.loads(folder.metadata.read_text())["captions"] == ["a {}"]  # what it was trained with stays
    with pytest.raises(InputError, match="changed: initializer"):
        check_metadata(cfg, folder, *Folder(str(root / "rex"), initializer="cat").load())


def test_a_word_is_drawn_before_its_class_word_where_asked(drawing: Callable, tmp_path: Path) -> None:
    """And is then another generation; without it nothing changes."""
    run = trained_run(tmp_path / "runs", {"rex": vectors(0)})
    (run / "rex" / "concept.json").write_text('{"placeholder": "<rex>", "initializer": "dog", "class_word": "dog"}')
    made = []
    for keys in ([], ["with_class=true", "negative_prompt='a bad {}'"]):
        cfg = drawing(f"run='{run}'", "prompts=['a {} at night']", *keys)
        made += image_folders_of_run(finished_concepts(run), cfg)
    plain, with_class = made
    assert [folder.manifest.images[0].prompt for folder in made] == ["a <rex> at night", "a <rex> dog at night"]
    assert [folder.manifest.images[0].text for folder in made] == ["a dog at night"] * 2
    assert with_class.settings["negative_prompt"] == "a bad <rex> dog"
    assert "with_class" not in plain.manifest.generation
    assert plain.path != with_class.path
    with pytest.raises(InputError, match="with_class=true needs run="):
        image_folders_of_text(drawing("text=class", "with_class=true", "prompts=['a {}']"))
