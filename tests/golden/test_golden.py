"""What the commands compute stays what it was, to the precision that processors share."""

import json
from pathlib import Path

import pytest

from tests.golden.record import record

RECORDED = Path(__file__).parent / "record.json"


@pytest.mark.slow
def test_the_toybox_commands_compute_what_they_did(tmp_path: Path) -> None:
    expected = json.loads(RECORDED.read_text())
    found = record(tmp_path, ["toybox"])
    assert found.keys() == {name for name in expected if name.startswith("toybox/") or name == "benchmark"}
    for name, entry in found.items():
        assert entry["numbers"] == pytest.approx(expected[name]["numbers"], rel=2e-3, abs=2e-3), name
