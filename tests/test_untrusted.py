"""A folder of --config-dir may come from anyone: it sets keys, and reads nothing but itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro.errors import InputError
from dti_repro.launch.command import command
from dti_repro.launch.untrusted import check_resolved, check_untrusted

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: ${oc.env:SECRET}\n", "own/x.yaml: line 1: '${oc.env:SECRET}' is not allowed; ${key} is"),
        ("a:\n  - {b: [x, '${oc.select:x,${oc.env:SECRET}}']}\n", "line 2: '${oc.select:x,${oc.env:SECRET}}' is not"),
        ('name: "\\x24{oc.env:SECRET}"\n', "'${oc.env:SECRET}' is not allowed"),
        ("name: ${oc.decode:'${x}'}\nx: y\n", "is not allowed"),
        ("name: ${oc.${x}:SECRET}\nx: env\n", "is not allowed"),
        ("name: \\${oc.env:SECRET}\n", "is not allowed"),
        ("defaults:\n  - /method: ${oc.env:SECRET}\n", "line 2: '${oc.env:SECRET}' is not allowed"),
        ("defaults:\n  - /../../secret@pw\n", "leads out of the folder"),
        ("defaults:\n  - ../../secret@pw: x\n", "leads out of the folder"),
        (BOMB, "line 2: an alias (*a) is not allowed"),
        ("a: " + "[" * 60 + "]" * 60, "line 1: nested more than 50 deep"),
        ("a: [", "while parsing a flow node"),
        ("a: b: c", "mapping values are not allowed here"),
        ("\xff", "codec can't decode byte"),
        ("a: " + "x" * (2 << 20), "a configuration is a regular file of at most 1024 KiB"),
    ],
    ids=lambda value: value[:30].encode("unicode_escape").decode(),
)
def test_a_configuration_from_elsewhere_reads_nothing_but_itself(
    content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    file = tmp_path / "own" / "x.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as error:
        check_untrusted(tmp_path)
    assert str(error.value).startswith(f"--config-dir {tmp_path}: own/x.yaml: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "s3cr3t" not in str(error.value)


def test_a_configuration_from_elsewhere_may_refer_to_its_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @command("train")
    def main(cfg: DictConfig) -> None:
        print(cfg.method.magnitude)

    folder, linked = tmp_path / "conf", tmp_path / "linked"
    (folder / "method").mkdir(parents=True)
    linked.mkdir()
    (folder / "prior").symlink_to(linked)
    mine = folder / "method" / "mine.yaml"
    mine.write_text("defaults: [dti, _self_]\nmagnitude: 2.0\nmagnitude_lr: ${optim.lr}\ninit: token\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", f"--config-dir={folder}", "method=mine", "method.magnitude=mean"])
    main()
    assert capsys.readouterr().out == "mean\n"
    mine.write_text(f"{mine.read_text()}x: $\ny: ${{method.x}}{{oc.env:HOME}}\n")  # becomes one when it is resolved
    with pytest.raises(SystemExit):
        main()
    refused = "method.y is '${oc.env:HOME}': with --config-dir a value must not contain ${"
    assert refused in capsys.readouterr().err
    (linked / "x.yaml").write_text("kappa: ${oc.env:HOME}\n")  # Hydra follows links, too
    with pytest.raises(InputError, match=r"prior/x\.yaml: line 1: '\$\{oc\.env:HOME\}' is not allowed"):
        check_untrusted(folder)
    check_resolved({"a": ["b", {"c": "$ {"}]})


def test_a_link_gives_a_folder_no_second_name(tmp_path: Path) -> None:
    """Hydra reads a folder under each of its names."""
    (tmp_path / "zzz").mkdir()
    (tmp_path / "zzz" / "x.yaml").write_text("a: 1\n")
    (tmp_path / "zzz" / "up").symlink_to(tmp_path)
    check_untrusted(tmp_path)
    (tmp_path / "hydra").symlink_to(tmp_path / "zzz")
    with pytest.raises(InputError, match="changes hydra's settings"):
        check_untrusted(tmp_path)
