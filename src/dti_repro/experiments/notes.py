"""What a result says about itself: the command that makes it, what its numbers are means over, and its notes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from omegaconf import DictConfig

from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.statistics import MIN_SUBJECTS
from dti_repro.inference.image_folder import settings_of
from dti_repro.launch.command_line import running_command

NOT_IN_TABLE = ("runs", "out", "rows", "accelerator", "devices", "logger")  # keys that change no number of a table
MASKED = "black outside of their masks"
STOPPED = "ended the trainings"
VERDICTS = (
    "holds: the paired 95% t interval over subjects lies wholly on the claimed side, and the sign-flip test gives "
    "p <= .05; does not: both say the opposite; undecided: anything else; too few subjects: fewer than "
    f"{MIN_SUBJECTS}. p (Holm) is corrected over the metrics of one claim; the verdict does not use it."
)
DIFFERENCES = (
    "Over the subjects that both rows have. p is the two-sided sign-flip test's, exact up to 16 subjects, and is "
    "corrected by Holm over this table."
)
NOTES = (
    "`norm` is the norm of the learned vector. `on noise` is the norm that AdamW gives a vector of this start, rate, "
    "decay and number of steps on random gradients: a norm near it says nothing about what was learned.",
    "`gradient` is the median norm of the gradient that the optimizer was given; kappa acts relative to it.",
    "`minutes` is the training time of a subject; subjects are trained in packs. It is empty where one was resumed.",
    "front.png shows image score against text score, from table.csv. grid.png shows the first subject by name with the "
    "first image seed and all prompts.",
)
# Where a run on one of the paper's models differs from the published code, by the class of the backbone. See
# docs/deviations.md.
_SHARED = (
    "photos are resized with Lanczos and cropped as `trainer.crop` says, by default at the centre (there: bicubic, "
    "cropped at random)",
    "noise is drawn on the CPU (there: on the GPU)",
    "the number of steps is fixed (there: chosen on the test prompts)",
    "scores are means over images (there: the image score is a mean of the batches' means)",
)
_LEARNED = "what is learned, and its prior, are float32 (there: in bfloat16, where the text encoder is)"
_CROSSINIT = "CrossInit's prior is the distance to the initial value (there: its mean square)"
_VAE = "the autoencoder draws in float32 (there: in bfloat16)"
_SPACE = "a learned word replaces a word's token with the space before it (there: the space is a token of its own)"
_INSTRUCTION = "{}, in training and in generation (there: none in training, the pipeline's in generation)"
UNMASKED = "references of the image score are as they are (there: black outside of the subject)"
MASK_DEVIATION = "masks are black or white, cut at 127 (there: the photo is multiplied by the grey value)"
_SIZES = (
    "the model is told the size of the square that it is trained on, without a crop (there: each photo's own size and "
    "the corner of its crop)"
)
_PADDING = "no prompt is padded (there: DTI's prompts begin with 0 to 15 zero vectors)"
_PADDED = (
    "As in the published code, and unequal (`backbone.as_published`): in training, prompts of DTI begin with 0 to 15 "
    "zero vectors, and those of other methods with none. See docs/deviations.md."
)
DEVIATIONS = {
    "dti_repro.backbones.sdxl.StableDiffusionXL": (
        *_SHARED,
        _LEARNED,
        _SIZES,
        "all frozen weights have `backbone.dtype` (there: CLIP-L in float32, the others in bfloat16)",
        "a word of several vectors stands in a prompt once (there: twice in generation)",
    ),
    "dti_repro.backbones.sana.Sana": (*_SHARED, _LEARNED, _VAE, _PADDING, _SPACE, _INSTRUCTION),
    "dti_repro.backbones.wan.Wan": (*_SHARED, _VAE),
}


def table_command() -> str:
    """Return the command that makes the table of the running command again, without keys that change no number."""
    return running_command("benchmark", *NOT_IN_TABLE)


def about(run: ExperimentRun, backbone: DictConfig, masked: bool) -> str:
    """Return what the numbers of a table are means over."""
    seeds = sorted({cfg.seed for cfg in run.trainings()})
    trained = f"{len(seeds)} training seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}), " if seeds else ""
    drawn = {key: " ".join(str(value).split()) for key, value in settings_of(backbone).items()}
    prompts = run.prompts()
    return (
        f"{len(run.concepts)} subjects ({', '.join(run.concepts)}), "
        f"{len(prompts.prompts)} prompts (`{prompts.name}`), {trained}{len(run.seeds())} image seeds; "
        f"image scores compare with references {MASKED if masked else 'as they are'}. "
        f"{''.join(f'Drawn with `backbone.{key}={value}`. ' for key, value in drawn.items())}"
        "Cells: mean over subjects ± half of its 95% t interval."
    )


def notes_of(experiment: Experiment, backbone: DictConfig, masked: bool) -> list[str]:
    """Return the notes under a table: those of every table, sources, differences to the published code, its yaml's."""
    as_published = backbone.get("as_published", False)
    repeated = {_SIZES} if backbone.get("sizes") == "as_published" else set()
    repeated |= {_VAE, _PADDING} if as_published else set()
    repeated |= {_INSTRUCTION} if as_published or backbone.get("instruction") == "as_published" else set()
    deviations = [deviation for deviation in DEVIATIONS.get(backbone._target_, ()) if deviation not in repeated]
    instruction = "no instruction" if backbone.get("instruction") == "none" else "one instruction"
    deviations = [deviation.format(instruction) for deviation in deviations]
    if deviations:
        deviations.append(MASK_DEVIATION if masked else UNMASKED)
    rows = [row.overrides for row in experiment.rows]
    if deviations and any("method=crossinit" in row and "method.prior.distance=mse" not in row for row in rows):
        deviations.append(_CROSSINIT)
    sources = sorted({row.published.source for row in experiment.rows if row.published})
    return [
        *NOTES,
        *(f"Published numbers: {source}." for source in sources),
        *(f"Differs from the published code: {deviation}. See docs/deviations.md." for deviation in deviations),
        *([_PADDED] if as_published else []),
        *experiment.notes,
    ]


def steps_used(results: Sequence[RowResult]) -> list[str]:
    """Return a note for each row whose trainings may stop early: at which steps they did."""
    notes = []
    for result in results:
        if not result.cfgs or not result.cfgs[0].trainer.stop or "source" in result.cfgs[0].method:
            continue
        trainer, used = result.cfgs[0].trainer, [folder.logged() for folder in result.folders]
        notes.append(
            f"{result.spec.label}: `trainer.stop={trainer.stop}` {STOPPED} after {min(used)} to {max(used)} of "
            f"{trainer.steps} steps (mean {fmean(used):.0f}); `on noise` is for all steps."
        )
    return notes
