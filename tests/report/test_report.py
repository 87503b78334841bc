import json
import re
from dataclasses import replace

import pytest
from reports import full_report

from secateur.ground.errors import ArtefactError
from secateur.measure import Comparison, Environment, Latency, Size
from secateur.report import Accuracy, Report, Sparsity, page
from secateur.report.read import report_from_json

REPORT = Report(
    method="snp",
    budget="macs=0.5",
    before=Size(params=1000, macs=2_000_000, bytes=4100),
    after=Size(params=400, macs=1_000_000, bytes=1700),
    max_masked_difference=2.4e-6,
    seconds={"trace": 0.4, "recover": 3.1},
    environment=Environment("0.1.0", "abc", "3.11.7", "2.8", "Some CPU", 2),
    seed=0,
    latency=Comparison(Latency(10, 9, 11), Latency(6, 5, 7), 0.6, 0.55, 0.65, rounds=30, batch=8, threads=1),
    accuracy=Accuracy(dense=0.93, pruned=0.4, recovered=0.921),
    kept={"conv1": (8, 16)},
)


def test_json_is_plain_and_complete() -> None:
    data = json.loads(json.dumps(REPORT.to_json(), allow_nan=False))
    assert data["before"] == {"params": 1000, "macs": 2_000_000, "bytes": 4100}
    assert data["ratios"] == {"params": 0.4, "macs": 0.5, "bytes": pytest.approx(1700 / 4100), "latency": 0.6}
    assert data["accuracy"] == {
        "dense": 0.93,
        "pruned": 0.4,
        "recovered": 0.921,
        "distilled": None,
        "finetuned": None,
    }
    assert data["latency"]["pruned"]["median_ms"] == 6
    assert data["kept"] == {"conv1": [8, 16]}
    assert data["environment"]["cpu"] == "Some CPU"


def test_the_table_says_all_that_was_measured() -> None:
    text = str(REPORT)
    for expected in ("2,000,000", "0.500", "10.00", "0.600", "40.00 %", "-53.00 points", "-0.90 points"):
        assert expected in text
    assert "30 interleaved runs, batch 8, 1 thread;" in text
    assert "2.4e-06" in text
    assert "fine-tuned" not in text
    assert "\x1b" not in text


def test_what_was_not_measured_is_left_out() -> None:
    bare = replace(REPORT, accuracy=None, latency=None, seconds={})
    text = str(bare)
    assert "points" not in text
    assert "Latency" not in text
    assert bare.ratios()["latency"] is None
    json.dumps(bare.to_json(), allow_nan=False)


def test_a_model_without_counted_work_has_no_ratio() -> None:
    nothing = replace(REPORT, before=Size(10, 0, 100), after=Size(10, 0, 100))
    assert nothing.ratios()["macs"] is None
    assert " - " in str(nothing) or " -\n" in str(nothing)


def test_connections_and_zipped_bytes_stand_beside_what_is_dense() -> None:
    report = replace(
        full_report(), sparsity=Sparsity(272_186, 27_218, 1_020_000, 153_000, ((1.0, 0.93), (0.1, 0.925)))
    )
    text = str(report)
    assert re.search(r"connections +272,186 +27,218 +0\.100", text)
    assert re.search(r"bytes, zipped +1,020,000 +153,000 +0\.150", text)
    assert "not the network faster" in text
    assert report_from_json(json.loads(json.dumps(report.to_json())), dict(report.recipe)) == report
    shown = page({"run": report})
    assert "Connections" in shown
    assert "Bytes, zipped" in shown
    broken = report.to_json()
    broken["sparsity"]["after"] = 10**9
    with pytest.raises(ArtefactError, match="sparsity"):
        report_from_json(broken)
