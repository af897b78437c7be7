"""`python -m dti_repro.concepts.download dreambooth`: published photos and prompts, from where their authors put them.

What is there and whole is not fetched again; what was cut off goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.app import entry
from dti_repro.concepts.collection import PUBLISHED, Collection
from dti_repro.concepts.fetching import open_session
from dti_repro.concepts.sources.source import Source
from dti_repro.configured import build
from dti_repro.errors import InputError
from dti_repro.results.lock import locked


def download(cfg: DictConfig, name: str) -> Path:
    """Bring the set `name` to <root>/<name>/; returns that folder. Says what does not come, file by file; InputError
    if anything is missing at the end."""
    folder = Path(cfg.root) / name
    source: Source = build(cfg.source, Source)
    with locked(folder / "lock", f"{folder} is being filled"), open_session() as session:
        fetched = source.fetch(folder, session, cfg.progress)
    for line in fetched.missing:
        print(f"missing: {line}", file=sys.stderr)
    print(f"{name}: {fetched.files} in all, {fetched.came} came now: {folder}")
    if fetched.missing:
        raise InputError(f"{name} is not whole: see to what is said above, then give the same command again")
    if (PUBLISHED / f"{name}.yaml").is_file():
        Collection(name, str(folder), "all").load()  # each concept has photos
        print(f"concepts={name} concepts.root={folder}")
    return folder


@entry("download")
def _main(cfg: DictConfig) -> None:
    download(cfg, HydraConfig.get().runtime.choices["source"])


def main() -> None:
    """The first word may be the set's bare name."""
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"source={sys.argv[1]}"
    _main()


if __name__ == "__main__":
    main()
