"""``python -m dti_repro.toybox.pretrain stage=<name>``: pretrains one network of the toybox, on a CPU or a GPU.

On two cores two processes of one thread are faster than one of two:
``torchrun --nproc-per-node 2 -m dti_repro.toybox.pretrain stage=unet``.
"""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig

from dti_repro.launch.command import command


@command("toybox_pretrain")
def main(cfg: DictConfig) -> None:
    import torch
    import torch.distributed as dist
    from omegaconf import OmegaConf

    from dti_repro.artifacts.files import write_json
    from dti_repro.config import build
    from dti_repro.toybox.training import Stage, fit

    torch.set_num_threads(cfg.threads)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo" if cfg.device == "cpu" else "nccl")
    stage = build(cfg.stage.network, Stage)
    folder = Path(cfg.folder) / cfg.stage.name
    if cfg.start_from:
        stage.load(Path(cfg.start_from))
    began = time.monotonic()
    settings = OmegaConf.to_container(cfg.stage.fit)
    last = fit(stage, folder, device=cfg.device, bf16=cfg.bf16, compiled=cfg.compile, **settings)
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    with torch.compiler.set_stance("force_eager"):  # other shapes than in training: not worth compiling again
        figures = stage.evaluate()
    stage.save(Path(cfg.save_to))
    minutes = round((time.monotonic() - began) / 60, 1)
    write_json(folder / "figures.json", {"held_out": figures, "last_batch": last, "minutes_of_this_call": minutes})
    print(f"{cfg.stage.name}: {figures}")


if __name__ == "__main__":
    main()
