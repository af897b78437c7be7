"""``dti full_width``: run every stage of a backbone at its published widths on random weights, and measure it."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.launch.command import command
from dti_repro.launch.sweep import typed_overrides


@command("full_width")
def main(cfg: DictConfig) -> None:
    from dti_repro.cost.full_width import build, full_width, load

    match cfg.only:
        case "build":
            build(cfg)
        case "load":
            load(cfg)
        case _:
            full_width(cfg, typed_overrides())


if __name__ == "__main__":
    main()
