"""A value that a key does not take is named, with what it takes, before torch is imported."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from dti_repro.config import CONF, validate
from dti_repro.config.schema import COMMANDS
from dti_repro.errors import InputError
from tests.composed import composed

INIT = "token, random, vocab_mean, contextual or the path of an embedding or a run"
BAD = {
    "train": {
        "trainer.steps=abc": "trainer.steps is abc: a whole number above 0 and at most 10000000 is needed",
        "trainer.batch=[1]": "trainer.batch is [1]: a whole number above 0 and at most 4096 is needed",
        "trainer.progress=3": "trainer.progress is 3: true or false is needed",
        "trainer.latents=[x]": "trainer.latents is ['x']: the path of a folder or null is needed",
        "trainer.snapshots=3": "trainer.snapshots is 3: a list of whole numbers above 0 is needed",
        "seed={a: b}": "seed is {'a': 'b'}: a whole number is needed",
        "runs=null": "runs is null: the path of a folder is needed",
        "method.prior.kappa=x": "method.prior.kappa is x: a number of at least 0 is needed",
        "method.prior.kappa=-1": "method.prior.kappa is -1: a number of at least 0 is needed",
        "method.init=[x]": f"method.init is ['x']: {INIT} is needed",
        "optim.beta=1": "optim.beta is 1: a number of at least 0 and below 1 is needed",
        "backbone.path=3": "backbone.path is 3: text or null is needed",
        "backbone.resolution=x": "backbone.resolution is x: a whole number above 0 or null is needed",
        "concepts.names=[[a]]": "concepts.names is [['a']]: a list of text, text or null is needed",
        "templates.prompts=3": "templates.prompts is 3: a list of text or captions is needed",
    },
    "plan": {
        "generate=[3]": "generate is [3]: a list of overrides such as [seed=1] is needed",
        "metrics=3": "metrics is 3: a metric's name, a list of names or a set is needed",
        "out=3": "out is 3: the name of a .json file or null is needed",
        "subjects=x": "subjects is x: a whole number above 0 or null is needed",
    },
    "benchmark": {
        "subjects=-1": "subjects is -1: a whole number above 0 or null is needed",
        "setup=seed": "setup is seed: a list of overrides such as [seed=1] is needed",
        "out=[a]": "out is ['a']: the path of a folder is needed",
        "accelerator=tpu": "accelerator is tpu: cpu, gpu or auto is needed",
        "devices=0": "devices is 0: a whole number above 0 is needed",
    },
    "evaluate": {
        "metrics=7": "metrics is 7: a metric's name, a list of names or a set is needed",
        "metrics=[7]": "metrics is [7]: a metric's name, a list of names or a set is needed",
        "metrics=[[a]]": "metrics is [['a']]: a metric's name, a list of names or a set is needed",
        "metrics={a: b}": "metrics is {'a': 'b'}: a metric's name, a list of names or a set is needed",
        "masks=[a]": "masks is ['a']: the path of a folder or null is needed",
        "masks=''": "masks is : the path of a folder or null is needed",
        "run=3": "run is 3: the path of a folder is needed",
        "run=[a]": "run is ['a']: the path of a folder is needed",
        "generation=[a]": "generation is ['a']: one generation's id, or null for all, is needed",
        "accelerator=tpu": "accelerator is tpu: cpu, gpu or auto is needed",
        "devices=two": "devices is two: a whole number above 0 is needed",
    },
    "toybox_gates": {
        "norms=[]": "norms is []: a list of numbers above 0 is needed",
        "pairs=many": "pairs is many: a whole number above 0 is needed",
        "guidance=-1": "guidance is -1: a number of at least 0 is needed",
    },
    "toybox_pretrain": {
        "threads=0": "threads is 0: a whole number above 0 and at most 1024 is needed",
        "bf16=1": "bf16 is 1: true or false is needed",
    },
    "toybox_probe": {"factors=[0]": "factors is [0]: a list of numbers above 0 is needed"},
}
GOOD = {
    "train": [
        *("trainer.fuse=true", "method.magnitude=5.0", "optim.lr=1", "concepts.names=[a,b]", "backbone.revision=null"),
        *("+logger.version=3", "backbone.path=a", "trainer.preview_prompts=['a {}']", "trainer.latents=null"),
    ],
    "benchmark": ["subjects=null"],
    "plan": ["metrics=dti_paper", "subjects=2", "train=['trainer.steps=1']"],
    "evaluate": ["metrics=[a,b]", "masks=a"],
    "toybox_gates": ["weights=a", "norms=[1]"],
    "toybox_pretrain": ["stage=unet", "start_from=a"],
    "toybox_probe": ["factors=[2.5]"],
}


@pytest.mark.parametrize("command", list(BAD))
def test_a_value_of_another_type_or_range_is_named(command: str) -> None:
    group = ["experiment=main_table"] if command in ("plan", "benchmark") else []
    for override, words in BAD[command].items():
        cfg = composed(command, *group, override)
        with pytest.raises(InputError) as error:
            validate(command, cfg)
        assert str(error.value) == words
    validate(command, composed(command, *group, *GOOD[command]))


@pytest.mark.parametrize("command", [file.stem for file in sorted(CONF.glob("toybox_*.yaml"))])
def test_every_key_of_the_toybox_s_commands_has_a_type(command: str) -> None:
    cfg = composed(command, *(["results=a"] if command == "toybox_recovered" else []))
    validate(command, cfg)
    assert set(COMMANDS[command]) == set(cfg) - {"hydra", "stage"}


def test_every_key_of_a_command_is_described_before_torch_is_imported() -> None:
    """And so it is judged."""
    line = (
        "import sys; from dti_repro.config import describe, validate;"
        "from dti_repro.launch.command_line import compose;"
        "cfg = compose('train', ['adapter=lora']); validate('train', cfg); print(describe('train', cfg));"
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    described = ast.literal_eval(said)
    assert described["trainer.preview_every"] == "a whole number of at least 0"
    assert described["trainer.accelerator"] == "cpu, gpu or auto"
    assert described["adapter.alpha"] == "a number above 0 or null"
