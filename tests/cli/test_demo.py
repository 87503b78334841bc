import json
from dataclasses import fields
from pathlib import Path

import pytest

from secateur.cli import main
from secateur.cli.demo import Figures

KEYS = (
    "acc_dense, acc_magnitude, acc_no_recovery, acc_paper, acc_snp, macs_ratio, params_ratio, latency_ratio, "
    "bytes_ratio, max_masked_difference, reload_equal, seconds"
)


def test_the_keys_are_those_that_are_documented() -> None:
    assert [f.name for f in fields(Figures)] == KEYS.split(", ")


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--json", "--output", str(tmp_path / "half")])
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out)
    assert list(found) == KEYS.split(", ")
    assert found["acc_dense"] >= 0.93
    assert found["acc_snp"] >= found["acc_dense"] - 0.015
    assert found["acc_snp"] > found["acc_no_recovery"]
    assert found["acc_snp"] > found["acc_magnitude"]
    assert found["acc_paper"] > found["acc_magnitude"]
    assert 0.45 < found["macs_ratio"] <= 0.5
    assert 0 < found["params_ratio"] < 1
    assert 0 < found["bytes_ratio"] < 1
    assert found["latency_ratio"] > 0
    assert found["max_masked_difference"] < 1e-3
    assert found["reload_equal"] is True
    assert (tmp_path / "half" / "model.safetensors").is_file()
    assert "<h1>resnet20-fashion</h1>" in (tmp_path / "half" / "report.html").read_text(encoding="utf-8")
