"""``python -m dti_repro.toybox.pretrain stage=<name>``: pretrains one network of the toybox, on a CPU or a GPU.

On two cores two processes of one thread are faster than one of two:
``torchrun --nproc-per-node 2 -m dti_repro.toybox.pretrain stage=unet``.
"""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.errors import InputError
from dti_repro.launch.command import command


@command("toybox_pretrain")
def main(cfg: DictConfig) -> None:
    import torch
    import torch.distributed as dist
    from omegaconf import OmegaConf

    from dti_repro.config import build
    from dti_repro.toybox.training import Stage, fit

    folder = Path(cfg.folder) / cfg.stage.name
    settings = OmegaConf.to_container(cfg.stage, resolve=True)
    _check_folders(cfg)
    _check_settings(folder, {"stage": settings, "start_from": cfg.start_from})
    torch.set_num_threads(cfg.threads)
    if dist.is_torchelastic_launched():
        if cfg.device != "cpu":
            raise InputError(f"device={cfg.device}: several processes train on a CPU only; start one without torchrun")
        dist.init_process_group("gloo")
    stage = build(cfg.stage.network, Stage)
    if cfg.start_from:
        stage.load(Path(cfg.start_from))
    began = time.monotonic()
    last = fit(stage, folder, device=cfg.device, bf16=cfg.bf16, compiled=cfg.compile, **settings["fit"])
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    with torch.compiler.set_stance("force_eager"):  # other shapes than in training: not worth compiling again
        figures = stage.evaluate()
    stage.save(Path(cfg.save_to))
    minutes = round((time.monotonic() - began) / 60, 1)
    write_json(folder / "figures.json", {"held_out": figures, "last_batch": last, "minutes_of_this_call": minutes})
    print(f"{cfg.stage.name}: {figures}")


def _check_folders(cfg: DictConfig) -> None:
    """Raise InputError for a folder of weights that is missing, before thousands of scenes are drawn."""
    parts = cfg.stage.network.get("parts")
    wanted = {key: Path(cfg[key]) for key in ("start_from", "autoencoder") if cfg[key]}
    if parts is not None:
        from dti_repro.toybox.unet import PARTS

        wanted |= {f"stage.network.parts, {part}": Path(parts) / part for part in PARTS}
    for key, folder in wanted.items():
        if not folder.is_dir():
            more = "; stage=text_encoder and stage=vae make them" if "parts" in key else ""
            raise InputError(f"{key}: {folder} does not exist{more}")


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise InputError for a training of the folder that was begun with other settings. Its length may change."""
    record = deepcopy(settings)
    for key in ("steps", "decay", "checkpoint_every"):
        record["stage"]["fit"].pop(key, None)
    known = folder / "settings.json"
    if (folder / "last.pt").is_file() and known.is_file() and read_json(known, "move the folder away") != record:
        raise InputError(f"{folder} has a training with other settings or start_from: give folder=<another folder>")
    write_json(known, record)


if __name__ == "__main__":
    main()
