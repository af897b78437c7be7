"""Generate images between the vectors of two trained concepts."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.inference.interpolation import interpolate
from dti_repro.launch.command import command


@command("interpolate")
def main(cfg: DictConfig) -> None:
    interpolate(cfg)


if __name__ == "__main__":
    main()
