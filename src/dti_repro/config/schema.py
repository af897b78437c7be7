"""The keys of every command: their types and ranges, and the rules between them.

A component's node (`method`, `adapter`, `concepts`, ...) is a mapping here: its class says what it takes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dti_repro.config.values import STRICT, Accelerator, FolderPath, Magnitude, Property
from dti_repro.errors import InputError


def _one_field(template: str) -> str:
    if template.count("{}") != 1:
        raise InputError(f"prompt template '{template}' must have one {{}} for the word")
    return template


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds has a seed twice: {seeds}")
    return seeds


Node = dict[str, Any]
Steps = Annotated[int, Field(gt=0, le=10**7)]
# More is a slip, and would be found out when the memory is full.
Size = Annotated[int, Field(gt=0, le=4096)]
Threads = Annotated[int, Field(gt=0, le=1024)]
Side = Annotated[int, Field(ge=8, le=4096, multiple_of=8, description="a multiple of 8, at most 4096 pixels,")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="a whole number of at least 0")]
Seeds = Annotated[
    list[Seed], Field(min_length=1, description="a list of seeds such as [0,1]"), AfterValidator(_distinct)
]
Template = Annotated[str, AfterValidator(_one_field)]
Texts = Annotated[list[str], Field(min_length=1)]
Overrides = Annotated[list[str], Field(description="a list of overrides such as [seed=1]")]
Prompts = Annotated[str | list[Any], Field(description="the name of a set, a list of templates or a file")]
Word = Annotated[str | float, Field(description="text")]
Metrics = Annotated[str | Texts, Field(description="a metric's name, a list of names or a set")]


class _Keys(BaseModel):
    model_config = ConfigDict(**STRICT)


class Backbone(_Keys):
    name: str
    path: str | None
    revision: str | None
    resolution: PositiveInt | None
    dtype: Literal["float32", "bfloat16"]
    checkpointing: bool
    compile: bool


class Templates(_Keys):
    prompts: Annotated[list[Template], Field(min_length=1)]


class Optim(_Keys):
    lr: NonNegativeFloat


class Sampler(_Keys):
    scheduler: str
    options: Node


class Trainer(_Keys):
    steps: Steps
    batch: Size
    accumulate: Size
    precision: Literal["fp32", "bf16"]
    accelerator: Accelerator
    devices: Threads
    threads: Threads
    pack: Size
    latents: FolderPath | None
    fuse: bool | Literal["auto"]
    checkpoint_every: Steps
    max_loss: PositiveFloat
    snapshots: list[PositiveInt]
    preview_every: NonNegativeInt
    preview_prompts: list[Template]
    progress: bool

    @model_validator(mode="after")
    def _snapshots_are_steps(self) -> Self:
        if late := [step for step in self.snapshots if step > self.steps]:
            raise InputError(f"trainer.snapshots has {late[0]}: steps are 1 to {self.steps}")
        return self


class _Training(_Keys):
    """What train and plan have in common."""

    concepts: Node
    templates: Templates
    optim: Optim
    backbone: Backbone
    method: Node
    adapter: Node
    trainer: Trainer
    seed: int
    runs: FolderPath

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.optim.lr == 0 and len(self.adapter) == 1:  # only the adapter `none` has no settings
            raise InputError("optim.lr is 0: a number above 0 is needed, or an adapter that is trained alone")
        return self


class Train(_Training):
    logger: Node


class _Drawing(_Keys):
    """What the commands that draw have in common."""

    backbone: Backbone
    sampler: Sampler
    prompts: Prompts
    seeds: Seed | Seeds
    guidance: NonNegativeFloat
    negative_prompt: str
    prompts_long: Literal["refuse", "cut"]
    width: Side | None
    height: Side | None
    batch: PositiveInt
    accelerator: Accelerator
    devices: PositiveInt
    threads: PositiveInt
    runs: FolderPath
    progress: bool

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise InputError("width and height are given together, or neither")
        return self


class Generate(_Drawing):
    concepts: Node
    run: FolderPath | None
    text: Literal["class", "description"] | None
    snapshot: PositiveInt | None
    steps: PositiveInt


class Interpolate(_Drawing):
    a: FolderPath
    b: FolderPath
    mode: Literal["slerp", "lerp"]
    steps: Annotated[int, Field(ge=2, le=1000)]  # each is a folder of images and a column of the grid
    out: FolderPath | None
    sampling_steps: PositiveInt


class Evaluate(_Keys):
    concepts: Node
    run: FolderPath
    generation: Annotated[str | float | None, Field(description="one generation's id, or null for all")]
    metrics: Metrics
    masks: FolderPath | None
    accelerator: Accelerator
    devices: PositiveInt
    sets: dict[str, Texts]


class Export(_Keys):
    run: FolderPath
    to: Literal["diffusers", "a1111", "comfyui"]
    out: FolderPath


class ImportEmbedding(_Keys):
    backbone: Backbone
    files: Annotated[str | Texts, Field(description="one file, or a list with one for each text encoder")]
    initializer: Word
    name: Word | None
    property: Property
    magnitude: Magnitude | None
    runs: FolderPath


class _Experiment(_Keys):
    """What the commands that take an experiment have in common."""

    runs: FolderPath
    setup: Overrides
    train: Overrides
    generate: Overrides


class Demo(_Experiment):
    experiment: Node
    out: FolderPath
    accelerator: Accelerator


class Benchmark(Demo):
    searched: FolderPath | None
    rows: Annotated[str | float | list[str | float] | None, Field(description="a list of rows, or null for all")]
    subjects: PositiveInt | None
    masks: FolderPath | None
    devices: PositiveInt


class Plan(_Training, _Experiment):
    device: Node
    experiment: Node | None
    searched: FolderPath | None
    subjects: PositiveInt | None
    metrics: Annotated[str | list[str], Field(description="a metric's name, a list of names or a set")]
    png_bytes_per_pixel: Annotated[float, Field(gt=0, lt=100)]
    out: Annotated[str, Field(pattern=r"\.json$", description="the name of a .json file")] | None


class Download(_Keys):
    source: Node
    root: FolderPath
    progress: bool


SCHEMAS: dict[str, type[_Keys]] = {
    "train": Train,
    "generate": Generate,
    "interpolate": Interpolate,
    "evaluate": Evaluate,
    "export": Export,
    "import_embedding": ImportEmbedding,
    "demo": Demo,
    "benchmark": Benchmark,
    "plan": Plan,
    "download": Download,
}
