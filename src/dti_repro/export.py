"""Write trained vectors and adapters as files for diffusers, A1111 or ComfyUI."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.inference.export import export
from dti_repro.launch.command import command


@command("export")
def main(cfg: DictConfig) -> None:
    for path in export(cfg):
        print(path)


if __name__ == "__main__":
    main()
