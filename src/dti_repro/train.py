"""Train the token vectors of concepts, and an adapter where one is chosen."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import embedding_files
from dti_repro.launch.command import command
from dti_repro.training.runs import train_missing


@command("train")
def main(cfg: DictConfig) -> int:
    folders, trained = train_missing(cfg)
    for folder in folders:
        for file in embedding_files(folder.embedding).values():
            print(file)
    return trained


if __name__ == "__main__":
    main()
