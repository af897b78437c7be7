"""Show the pictures between two trained concepts on a local page with a slider."""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.inference.blend import Blend
from dti_repro.launch.command import command


@command("blend")
def main(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    words = Blend(cfg)
    from dti_repro.inference.blend_server import BlendServer

    with BlendServer(words, cfg) as server:
        words.load()
        print(f"open {server.address} in a browser of this machine; Ctrl-C ends it", flush=True)
        server.run()


if __name__ == "__main__":
    main()
