"""The keys of every command, with their types and ranges, and the rules between them.

What lies below a component's node (`method`, `adapter`, `concepts`, ...) is typed by the constructor of its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dti_repro.config.build import is_dotted
from dti_repro.config.signatures import component_types
from dti_repro.config.values import (
    Accelerator,
    FolderPath,
    Magnitude,
    Property,
    check_parameter,
    check_value,
    refuse_secrets,
    walk,
    words,
)
from dti_repro.errors import InputError

MISSING = "???"
Steps = Annotated[int, Field(gt=0, le=10**7)]
# A larger number is probably a typing error, which without a limit shows only when the memory is full.
Size = Annotated[int, Field(gt=0, le=4096)]
Processes = Annotated[int, Field(gt=0, le=1024)]
Side = Annotated[int, Field(ge=8, le=4096, multiple_of=8, description="a multiple of 8, at most 4096 pixels,")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Word = Annotated[str | float, Field(description="text")]
Texts = Annotated[list[str], Field(min_length=1)]
Seeds = Annotated[list[Seed], Field(min_length=1)]
Numbers = Annotated[list[PositiveFloat], Field(min_length=1)]
Overrides = Annotated[list[str], Field(description="a list of overrides such as [seed=1]")]
PROMPTS = Annotated[str | list[Any], Field(description="the name of a set, a list of templates or a file")]
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", description="a text with one {} for the word,")]
MAX_PROMPT = 300  # characters
PagePrompt = Annotated[str, Field(max_length=MAX_PROMPT, description=f"a text of at most {MAX_PROMPT} characters")]
GENERATION = Annotated[str | None, Field(description="one generation's id, or null for all,")]
METRICS = Field(description="a metric's name, a list of names or a set")

BACKBONE = {
    "backbone.name": str,
    "backbone.path": str | None,
    "backbone.revision": str | None,
    "backbone.variant": Annotated[str, Field(pattern=r"^\w+$", description="a variant's name, such as fp16,")] | None,
    "backbone.config": str | None,
    "backbone.resolution": PositiveInt | None,
    "backbone.dtype": Literal["float32", "bfloat16"],
    "backbone.checkpointing": bool,
    "backbone.compile": bool,
}
TRAIN = {
    **BACKBONE,
    "templates.prompts": Texts | Literal["captions"],
    "method.vectors": Annotated[int, Field(gt=0, le=1000)] | None,
    "optim.lr": NonNegativeFloat,
    "optim.schedule": Literal["constant", "cosine", "linear"],
    "optim.warmup": NonNegativeInt,
    "trainer.steps": Steps,
    "trainer.batch": Size,
    "trainer.accumulate": Size,
    "trainer.precision": Literal["fp32", "bf16"],
    "trainer.stop": Literal["dvar"] | None,
    "trainer.stop_window": Annotated[int, Field(ge=2)],
    "trainer.stop_eps": Annotated[float, Field(gt=0, lt=1)],
    "trainer.stop_batch": Annotated[int, Field(gt=0, le=512)],
    "trainer.accelerator": Accelerator,
    "trainer.devices": Processes,
    "trainer.threads": Processes,
    "trainer.pack": Size,
    "trainer.latents": FolderPath | None,
    "trainer.crop": Literal["centre", "random", "none"],
    "trainer.crops": Annotated[int, Field(gt=0, le=1000)],
    "trainer.masks_in_loss": bool,
    "trainer.masks": FolderPath | None,
    "trainer.fuse": bool | Literal["auto"],
    "trainer.checkpoint_every": Steps,
    "trainer.max_loss": PositiveFloat,
    "trainer.snapshots": list[PositiveInt],
    "trainer.preview_every": NonNegativeInt,
    "trainer.preview_prompts": list[str],
    "trainer.progress": bool,
    "seed": int,
    "runs": FolderPath,
}
PICTURE = {
    **BACKBONE,
    "sampler.scheduler": str,
    "sampler.options": dict[str, Any],
    "guidance": NonNegativeFloat,
    "negative_prompt": str,
    "prompts_long": Literal["refuse", "cut"],
    "width": Side | None,
    "height": Side | None,
    "accelerator": Accelerator,
    "threads": PositiveInt,
}
DRAW = {
    **PICTURE,
    "prompts": PROMPTS,
    "seeds": Seed | Seeds,
    "batch": PositiveInt,
    "devices": PositiveInt,
    "runs": FolderPath,
    "progress": bool,
}
EXPERIMENT = {"runs": FolderPath, "setup": Overrides, "train": Overrides, "generate": Overrides}
SUBSET = {"searched": FolderPath | None, "subjects": PositiveInt | None}
SCORE = {"masks": FolderPath | None, "accelerator": Accelerator, "devices": PositiveInt}
TOYBOX = {"weights": FolderPath | None, "seed": Seed, "threads": Processes}
TOYBOX_DRAW = {**TOYBOX, "steps": PositiveInt, "guidance": NonNegativeFloat, "out": FolderPath}
MechanismPart = Literal[
    *("vocabulary_norms", "positions", "residual_updates", "neighbours"),
    *("attention", "norm_by_step", "text_score_by_norm"),
]
COMMANDS: dict[str, dict[str, Any]] = {
    "train": TRAIN,
    "generate": {
        **DRAW,
        "run": FolderPath | None,
        "text": Literal["class", "description"] | None,
        "snapshot": PositiveInt | None,
        "with_class": bool,
        "steps": PositiveInt,
    },
    "interpolate": {
        **DRAW,
        "a": FolderPath,
        "b": FolderPath,
        "mode": Literal["slerp", "lerp"],
        "steps": Annotated[int, Field(ge=2, le=1000)],  # each is a folder of images and a column of the grid
        "out": FolderPath | None,
        "sampling_steps": PositiveInt,
    },
    "blend": {
        **PICTURE,
        "a": FolderPath,
        "b": FolderPath,
        "prompt": PagePrompt,
        "seed": Seed,
        "steps": PositiveInt,
        "port": Annotated[int, Field(ge=0, le=65535)],
    },
    "evaluate": {
        **SCORE,
        "run": FolderPath,
        "runs": FolderPath,
        "generation": GENERATION,
        "metrics": Annotated[str | Texts, METRICS],
        "sets": dict[str, list[str]],
    },
    "export": {"run": FolderPath, "to": Literal["diffusers", "a1111", "comfyui"], "out": FolderPath},
    "import_embedding": {
        **BACKBONE,
        "files": Annotated[str | Texts, Field(description="one file, or a list with one for each text encoder,")],
        "initializer": Word,
        "name": Word | None,
        "property": Property,
        "magnitude": Magnitude | None,
        "runs": FolderPath,
    },
    "table": {
        "runs": Annotated[FolderPath | Texts, Field(description="the path of a run's folder, or a list of them,")],
        "labels": list[Word] | None,
        "metrics": Texts | None,
        "generation": GENERATION,
        "out": Annotated[str, Field(min_length=1, description="the path of the table's files, without an ending")],
    },
    "demo": {**EXPERIMENT, "out": FolderPath, "accelerator": Accelerator},
    "benchmark": {**EXPERIMENT, **SUBSET, **SCORE, "out": FolderPath},
    "report": {**EXPERIMENT, **SUBSET, "out": FolderPath, "masks": FolderPath | None},
    "plan": {
        **{key: kind for key, kind in {**TRAIN, **EXPERIMENT}.items() if key != "runs"},
        **SUBSET,
        "metrics": Annotated[str | list[str], METRICS],
        "png_bytes_per_pixel": Annotated[float, Field(gt=0, lt=100)],
        "out": Annotated[str, Field(pattern=r"\.json$", description="the name of a .json file")] | None,
    },
    "mechanism": {
        **BACKBONE,
        "runs": list[str],
        "words": list[str],
        "parts": list[MechanismPart],
        "norms": Numbers,
        "seeds": Seeds,
        "factors": list[PositiveFloat],
        "prompt": Template,
        "attention_prompt": Template,
        "neighbours": Annotated[int, Field(gt=0, le=100)],
        "rates": list[PositiveFloat],
        "steps": Steps,
        "picture.norms": list[PositiveFloat],
        "picture.metrics": Texts,
        "picture.prompts": PROMPTS,
        "picture.seeds": Seeds,
        "picture.steps": PositiveInt,
        "picture.guidance": NonNegativeFloat,
        "picture.batch": PositiveInt,
        "picture.accelerator": Accelerator,
        "picture.progress": bool,
        "threads": Processes,
        "out": FolderPath,
    },
    "claims": {
        "results": FolderPath,
        "rules": Annotated[str, Field(min_length=1, description="the path of a yaml file")] | None,
        "out": FolderPath,
    },
    "figures": {"results": FolderPath},
    "download": {"root": FolderPath, "progress": bool},
    "full_width": {
        **BACKBONE,
        "folder": FolderPath | None,
        "concept": Word,
        "train": Overrides,
        "generate": Overrides,
        "metrics": Texts,
        "widths": Annotated[str, Field(pattern=r"\.yaml$", description="the path of a yaml file")] | None,
        "only": Literal["build", "load"] | None,
        "delete": bool,
        "out": FolderPath,
    },
    "toybox_pretrain": {
        **dict.fromkeys(("folder", "cache", "save_to"), FolderPath),
        **dict.fromkeys(("autoencoder", "start_from"), FolderPath | None),
        "threads": Processes,
        "bf16": bool,
        "compile": bool,
        "device": str,
    },
    "toybox_quality": {
        **TOYBOX_DRAW,
        "reader": str,
        "images": PositiveInt,
        "first": NonNegativeInt,
        "batch": PositiveInt,
    },
    "toybox_probe": {
        **TOYBOX_DRAW,
        "factors": Numbers,
        "norms": Numbers,
        "prompts": PROMPTS,
        "image_seeds": Seeds,
        "metrics": Texts,
    },
    "toybox_gates": {
        **TOYBOX_DRAW,
        "parts": Texts,
        "subjects": FolderPath | None,
        "reader": str,
        "pairs": PositiveInt,
        "noise": PositiveInt,
        "norms": Numbers,
    },
    "toybox_recovered": {**TOYBOX, "results": FolderPath, "class_word": str},
}


def validate(command: str, cfg: DictConfig) -> None:
    """Raise InputError with one line that names the first key whose value has another type than the command needs, is
    out of its range, breaks a rule between keys, or would be a secret.

    A key without a value (`???`) is not judged: whoever reads it says that it is missing.
    """
    keys = [key for key in cfg if key != "hydra"]  # which Hydra resolves later
    content = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    values = dict(walk(content))
    refuse_secrets(values)
    for key, name in values.items():
        if key.endswith("_target_") and not is_dotted(name):
            raise InputError(f"{key} '{name}' is refused: the dotted name of a class is needed")
    for types, check in ((COMMANDS[command], check_value), (component_types(content), check_parameter)):
        for key, hint in types.items():
            if values.get(key, MISSING) != MISSING:
                check(values[key], hint, key)
    if broken := next(_broken_rules(values), None):
        raise InputError(broken)


def describe(command: str, cfg: DictConfig) -> dict[str, str]:
    """Return dotted key -> its type and range in words, such as `a whole number above 0`, of the keys of the command
    and of the components that are chosen in its configuration."""
    types = {**COMMANDS[command], **component_types(OmegaConf.to_container(cfg))}
    return {key: words(hint) for key, hint in types.items()}


def _broken_rules(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each rule between valid keys that is broken."""
    listed = [values.get(key, ()) for key in ("templates.prompts", "trainer.preview_prompts")]
    templates = [template for texts in listed if isinstance(texts, list) for template in texts]
    if wrong := [template for template in templates if template.count("{}") != 1]:
        yield f"prompt template '{wrong[0]}' must have one {{}} for the word"
    if values.get("trainer.masks_in_loss") and values.get("trainer.masks") is None:
        yield "trainer.masks_in_loss needs trainer.masks=<folder>, with <concept>/<photo>.png in it"
    if late := [step for step in values.get("trainer.snapshots", ()) if step > values["trainer.steps"]]:
        yield f"trainer.snapshots has {late[0]}: steps are 1 to {values['trainer.steps']}"
    if values.get("trainer.stop") and values["trainer.stop_window"] >= values["trainer.steps"]:
        yield (
            f"trainer.stop_window is {values['trainer.stop_window']}: a stop needs a window below trainer.steps, "
            f"{values['trainer.steps']}"
        )
    if values.get("optim.lr") == 0 and len(values.get("adapter", ())) < 2:  # only the adapter `none` has no keys
        yield "optim.lr is 0: a number above 0 is needed, or an adapter that is trained alone"
    if values.get("optim.warmup", 0) >= values.get("trainer.steps", 1):
        yield f"optim.warmup is {values['optim.warmup']}: fewer steps than trainer.steps are needed"
    if (values.get("width") is None) != (values.get("height") is None):
        yield "width and height are given together, or neither"
    seeds = values.get("seeds")
    if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
        yield f"seeds has a seed twice: {seeds}"
