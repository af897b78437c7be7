"""Download a published set of photos or prompts."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.lock import locked
from dti_repro.config import build
from dti_repro.data.concept import PUBLISHED, Collection
from dti_repro.data.download import Source
from dti_repro.launch.command import command


def download(cfg: DictConfig, name: str) -> Path:
    """Download the set `name` to <root>/<name>/ and return that folder. InputError if a file is missing at the end."""
    folder = Path(cfg.root) / name
    source: Source = build(cfg.source, Source)
    with locked(folder / "lock", f"{folder} is being filled"):
        source.fetch(folder, cfg.progress)
    if (PUBLISHED / f"{name}.yaml").is_file():
        Collection(name, str(folder), "all").load()  # InputError for a concept without photos
        print(f"concepts={name} concepts.root={folder}")
    return folder


@command("download")
def _main(cfg: DictConfig) -> None:
    download(cfg, HydraConfig.get().runtime.choices["source"])


def main() -> None:
    """Read a first word such as `dreambooth` as `source=dreambooth`."""
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"source={sys.argv[1]}"
    _main()


if __name__ == "__main__":
    main()
