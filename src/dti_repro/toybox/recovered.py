"""``python -m dti_repro.toybox.recovered results=<folder of an experiment>``: how far each row went to its subjects.

The way of a row is (image of its pictures - image of the class word's) / (image of decoded references - image of the
class word's), of sums over subjects. Decoded references are what the autoencoder makes of the photos: nothing that the
model draws can be closer. Each is compared with the other photos of its subject.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers.image_processor import VaeImageProcessor
from omegaconf import DictConfig
from PIL import Image
from scipy import stats
from torch.nn.functional import normalize

from dti_repro.artifacts.files import atomic_write
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.config import build
from dti_repro.data.concept import Toybox
from dti_repro.errors import InputError
from dti_repro.launch.command import command
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.similarity import ReferenceSimilarity
from dti_repro.toybox.vae import as_pixels

METRIC = "toybox_image"


@command("toybox_recovered")
def main(cfg: DictConfig) -> None:
    images = image_scores(Path(cfg.results) / "scores.csv", cfg.class_word)
    torch.set_num_threads(cfg.threads)
    images["decoded references"] = decoded_references(StableDiffusion("toybox", cfg.weights, None), list(images.index))
    table = shares(images, cfg.class_word, cfg.seed)
    with atomic_write(Path(cfg.results) / "recovered.csv") as temporary:
        table.to_csv(temporary)
    print(f"{len(images)} subjects ({', '.join(images.index)}).\n\n{table.to_string()}")


def image_scores(file: Path, start: str) -> pd.DataFrame:
    """Return the image scores, (subjects, rows). InputError without the file, or without row ``start`` in it."""
    if not file.is_file():
        raise InputError(f"{file} does not exist: results=<out>/<experiment> of `python -m dti_repro.benchmark`")
    scores = pd.read_csv(file)
    images = scores[scores["metric"] == METRIC].pivot(index="concept", columns="row", values="mean")
    if start not in images:
        raise InputError(f"{file} has no {METRIC} of row '{start}' (class_word=<row of the class word>)")
    return images


def shares(images: pd.DataFrame, start: str, seed: int) -> pd.DataFrame:
    """Return mean image score, way gone, and its 95% bootstrap interval (BCa over subjects) for each row.

    images: (subjects, rows), among them ``start`` and "decoded references".
    """

    def ratio(gained, there, axis):
        return gained.sum(axis=axis) / there.sum(axis=axis)

    there = (images["decoded references"] - images[start]).to_numpy()
    lines = {}
    for row in images:
        gained = (images[row] - images[start]).to_numpy()
        line = {"image": images[row].mean(), "way": ratio(gained, there, 0), "low": np.nan, "high": np.nan}
        if row not in (start, "decoded references") and len(images) > 1:
            found = stats.bootstrap(
                (gained, there), ratio, paired=True, vectorized=True, rng=np.random.default_rng(seed)
            )
            line |= {"low": found.confidence_interval.low, "high": found.confidence_interval.high}
        lines[row] = line
    return pd.DataFrame(lines).T.round(4).rename_axis("row")


def decoded_references(model: StableDiffusion, names: list[str]) -> list[float]:
    """Return for each subject the mean cosine of its decoded photos to its other photos."""
    encoder = build(metric_config(METRIC), ReferenceSimilarity).encoder
    means = []
    for concept in Toybox(names=names).load():
        photos = [Image.open(path).convert("RGB") for path in concept.images]
        pixels = as_pixels(np.stack([np.asarray(photo) for photo in photos]))
        with torch.no_grad():
            drawn = model.vae.decode(model.vae.encode(pixels).latent_dist.mean).sample
        decoded = VaeImageProcessor().postprocess(drawn)
        similar = normalize(encoder.images(decoded), dim=-1) @ normalize(encoder.images(photos), dim=-1).T
        others = ~torch.eye(len(photos), dtype=torch.bool)
        means.append(float(similar[others].mean()))
    return means


if __name__ == "__main__":
    main()
