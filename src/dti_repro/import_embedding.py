"""Import an embedding file from elsewhere as a run, with its own norm or another one."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.embedding import check_file, load_any_layout, save_embeddings
from dti_repro.artifacts.files import sha256, write_file, write_json
from dti_repro.artifacts.lock import locked
from dti_repro.artifacts.provenance import provenance
from dti_repro.artifacts.run_dir import ConceptFolder, RunFolder, check_name, config_hash
from dti_repro.backbones.checkpoint import check_words, encoder_dims, fingerprint, vocabulary
from dti_repro.backbones.location import located
from dti_repro.data.concept import Concept
from dti_repro.launch.command import command
from dti_repro.training.runs import concept_metadata


def import_embedding(cfg: DictConfig) -> ConceptFolder:
    """Write the concept's folder below <runs>/<backbone>/imported/; return it. InputError for what does not fit the
    backbone."""
    listed = cfg.files if OmegaConf.is_list(cfg.files) else [cfg.files]
    files = [Path(file) for file in listed]
    for file in files:
        check_file(file)
    name = check_name(str(cfg.name or files[0].name.split(".")[0]), "name")
    concept = Concept(name, f"<{name}>", str(cfg.initializer), (), property=cfg.property)
    checkpoint = located(cfg.backbone)
    check_words(checkpoint, [(concept.initializer, concept.placeholder)])
    vectors = load_any_layout(files, encoder_dims(checkpoint))
    if cfg.magnitude is not None:
        from torch.nn.functional import normalize

        from dti_repro.backbones.base import EncoderSpec

        for encoder, rows in vectors.items():
            norm = EncoderSpec.of(vocabulary(checkpoint, encoder)).norm(cfg.magnitude)
            # In float64: the norm of float32 numbers may be larger than any of them.
            vectors[encoder] = normalize(rows.double(), dim=-1) * norm
    hashed = {
        "files": [sha256(file) for file in files],
        "magnitude": cfg.magnitude,
        "backbone": {"name": cfg.backbone.name, "weights": fingerprint(checkpoint)},
    }
    backbone = check_name(cfg.backbone.name, "backbone.name")
    run = RunFolder(Path(cfg.runs), backbone, "imported", config_hash(hashed), 0)
    folder = run.concept(name)
    with locked(folder.lock, f"concept '{name}' is being trained"):
        write_file(run.config, OmegaConf.to_yaml(OmegaConf.create(hashed)))
        write_json(folder.metadata, concept_metadata(concept))
        write_json(folder.provenance, {**provenance(time.time(), "cpu"), "imported": [file.name for file in files]})
        save_embeddings(folder.embedding, concept.placeholder, vectors, run.header(name, concept.initializer))
    return folder


@command("import_embedding")
def main(cfg: DictConfig) -> None:
    print(import_embedding(cfg).path)


if __name__ == "__main__":
    main()
