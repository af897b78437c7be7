"""The toybox's world: its pictures are a function of the scene, and its language can be read back."""

import numpy as np
import pytest

from dti_repro.toybox.dataset import scene_of
from dti_repro.toybox.drawing import render
from dti_repro.toybox.language import WORDS, caption, full_caption, swapped, template
from dti_repro.toybox.scene import ATTRIBUTES, BACKGROUNDS, CLASSES, sample_instance, sample_scene
from dti_repro.toybox.tokenizer import build_tokenizer, word_ids

SCENES = [scene_of(900, k) for k in range(200)]


def test_a_scene_is_its_picture() -> None:
    for scene in SCENES[:20]:
        assert np.array_equal(render(scene), render(scene))
    again = [scene_of(900, k) for k in range(20)]
    assert again == SCENES[:20]


def test_every_attribute_has_a_label_the_reader_knows() -> None:
    for scene in SCENES:
        for name, value in scene.attributes().items():
            assert value in ATTRIBUTES[name]


@pytest.mark.parametrize("cls", CLASSES)
def test_individuals_of_a_class_look_different(cls: str) -> None:
    rng = np.random.default_rng(5)
    one, other = sample_instance(rng, cls), sample_instance(rng, cls)
    seen = [render(sample_scene(np.random.default_rng(7), s, background=BACKGROUNDS[0])) for s in (one, other)]
    assert np.abs(seen[0].astype(int) - seen[1]).mean() > 1


def test_captions_use_known_words_and_fit_the_context() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        for text in (caption(scene, rng), full_caption(scene, rng), *swapped(scene, rng).values()):
            words = text.split()
            assert set(words) <= set(WORDS)
            assert len(words) <= 30


def test_a_full_caption_names_what_is_there_in_either_order() -> None:
    rng = np.random.default_rng(0)
    beside = [scene for scene in SCENES if scene.other != "none"]
    subject_first = 0
    for scene in beside:
        words = full_caption(scene, rng).split()
        assert {scene.subject.cls, scene.subject.color, scene.other, scene.other_color} <= set(words)
        subject_first += words.index(scene.subject.cls) < words.index(scene.other)
    assert 0.2 < subject_first / len(beside) < 0.8


def test_swapped_captions_are_wrong_in_meaning_and_alike_in_words() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES[:60]:
        right = set(full_caption(scene, rng).split())
        true = {full_caption(scene, np.random.default_rng(k)) for k in range(100)}
        assert not true & set(swapped(scene, rng).values())
        for text in swapped(scene, rng).values():
            content = {w for w in text.split() if w in {scene.subject.cls, scene.other, scene.accessory}}
            assert content <= right


def test_a_template_leaves_the_subject_open() -> None:
    text = template(SCENES[0], np.random.default_rng(0), 0.1)
    assert text.count("{}") == 1
    assert SCENES[0].subject.cls not in text.split()


def test_every_word_is_one_token_and_the_end_token_comes_last() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert all(len(tokenizer(word).input_ids) == 3 for word in WORDS)
    assert len(tokenizer("zebra").input_ids) > 3
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values())
    assert len(word_ids(tokenizer, WORDS)) == len(WORDS) + 2
    assert build_tokenizer(WORDS).get_vocab() == tokenizer.get_vocab()  # processes that pretrain together must agree
