"""The toybox's world: its pictures are a function of the scene, its language can be read back, its named looks are
regions."""

import numpy as np
import pytest

from dti_repro.toybox.drawing import render
from dti_repro.toybox.language import WORDS, caption, full_caption, swapped, template
from dti_repro.toybox.looks import NAMED, held_out_subject, sample_free
from dti_repro.toybox.sampling import sample_scene, scene_of
from dti_repro.toybox.scene import BACKGROUNDS, CLASSES, FACTS
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids

SCENES = [scene_of(900, k) for k in range(200)]


def test_a_scene_its_picture_and_its_captions_are_functions_of_stream_and_number() -> None:
    for k in range(20):
        again = scene_of(900, k)
        assert again == SCENES[k]
        assert np.array_equal(render(again), render(SCENES[k]))
        assert len({caption(scene, np.random.default_rng(k)) for scene in (again, SCENES[k])}) == 1


def test_every_fact_has_a_label_that_is_known() -> None:
    for scene in SCENES:
        assert all(value in FACTS[name] for name, value in scene.facts().items())


@pytest.mark.parametrize("cls", CLASSES)
def test_individuals_of_a_class_look_different(cls: str) -> None:
    rng = np.random.default_rng(5)
    one, other = sample_free(rng, cls), sample_free(rng, cls)
    seen = [render(sample_scene(np.random.default_rng(7), s, background=BACKGROUNDS[0])) for s in (one, other)]
    assert np.abs(seen[0].astype(int) - seen[1]).mean() > 1


def test_captions_use_known_words_and_fit_the_context() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        for text in (caption(scene, rng), full_caption(scene, rng), *swapped(scene, rng).values()):
            words = text.split()
            assert set(words) <= set(WORDS)
            assert len(words) <= 30


def test_a_full_caption_names_what_is_beside_the_subject_in_either_order() -> None:
    rng = np.random.default_rng(0)
    beside = [scene for scene in SCENES if scene.other != "none"]
    plain = [scene for scene in beside if not scene.subject.name]
    for scene in beside:
        assert {scene.other, scene.other_color} <= set(full_caption(scene, rng).split())
    subject_first = 0
    for scene in plain:
        words = full_caption(scene, rng).split()
        assert {scene.subject.cls, scene.subject.color} <= set(words)
        subject_first += words.index(scene.subject.cls) < words.index(scene.other)
    assert 0.2 < subject_first / len(plain) < 0.8


def test_swapped_captions_are_wrong_in_meaning_and_alike_in_words() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES[:60]:
        right = set(full_caption(scene, rng).split())
        true = {full_caption(scene, np.random.default_rng(k)) for k in range(100)}
        assert not true & set(swapped(scene, rng).values())
        for text in swapped(scene, rng).values():
            content = {w for w in text.split() if w in {scene.other, scene.accessory}}
            assert content <= right


@pytest.mark.parametrize(("order", "first"), [(0.1, "{}"), (0.6, "other"), (0.9, "relation")])
def test_a_template_leaves_the_subject_open_and_keeps_its_word_order(order: float, first: str) -> None:
    scene = next(scene for scene in SCENES if scene.other != "none" and scene.relation in ("above", "below"))
    text = template(scene, np.random.default_rng(0), order)
    assert text.count("{}") == 1
    assert scene.subject.cls not in text.split()
    at = {"{}": text.index("{}"), "other": text.index(scene.other)}
    at["relation"] = min(text.find(word) for word in ("above", "over", "below", "under") if word in text)
    assert min(at, key=at.get) == first  # type: ignore[arg-type]


def test_a_named_individual_lies_in_its_region_unless_adjectives_overrule_the_name() -> None:
    named = [scene.subject for scene in SCENES if scene.subject.name]
    assert 0.5 < len(named) / len(SCENES) < 0.9
    for subject in named:
        assert NAMED.by_name[subject.name].holds(subject) == (not subject.overruled)


def test_overruling_adjectives_are_always_said_beside_the_name() -> None:
    rng = np.random.default_rng(0)
    overruled = [scene for scene in SCENES if scene.subject.overruled]
    for scene in overruled:
        words = caption(scene, rng).split()
        if scene.subject.name in words:
            said = {"color": scene.subject.color, "pattern": scene.subject.pattern}
            assert all(said[what] in words for what in scene.subject.overruled)
    assert overruled


def test_held_out_subjects_lie_outside_every_region() -> None:
    for index, cls in enumerate(("bird", "car", "mug", "robot")):
        subject, known = held_out_subject(np.random.default_rng([2, 900, index]), cls, index)
        assert subject.cls == cls
        assert not NAMED.around(subject)
        assert set(known) == {"lies", "nearest"}


def test_every_word_is_one_token_and_the_end_token_comes_last() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert all(len(tokenizer(word).input_ids) == 3 for word in WORDS)
    assert len(WORDS) >= 500
    assert len(tokenizer("zebra").input_ids) > 3
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values())
    assert len(word_ids(tokenizer, WORDS)) == len(WORDS) + 2
    assert build_tokenizer(WORDS).get_vocab() == tokenizer.get_vocab()  # processes that pretrain together must agree
