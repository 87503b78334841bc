"""The one table: every cost and score once, with its ratio, whatever shows it."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import blocks_report, full_report, sparse_report

from secateur.measure import Latency, Size, Timing
from secateur.measure.metric import Metric, MetricFormat
from secateur.report import Approach, Scores
from secateur.report.rows import Figure, costs, latency, lines, rows, score, scores, sizes

REPORT = full_report()


def test_costs_come_before_scores_in_one_order() -> None:
    assert [row.key for row in rows(REPORT)] == ["params", "macs", "bytes", "latency", "score", "score"]
    sparse = ["params", "macs", "bytes", "connections", "zipped", "latency", "score"]
    assert [row.key for row in rows(sparse_report())] == sparse
    blocks = ["params", "macs", "bytes", "bits", "multiplications", "latency"]
    assert [row.key for row in costs(blocks_report())] == blocks


def test_macs_are_those_of_a_sample_whatever_the_batch() -> None:
    assert REPORT.latency is not None
    for batch in (1, 64):
        row = rows(replace(REPORT, latency=replace(REPORT.latency, batch=batch)))[1]
        assert row.name == "MACs per sample"
        assert row.dense == Figure(31_021_952)
        assert row.pruned == Figure(15_456_416)
        assert row.note == ""


def test_the_ratio_of_times_is_that_of_pairs() -> None:
    assert REPORT.latency is not None
    row = latency(REPORT.latency)
    assert row.dense == Figure(292.5, (287.3, 314.3))
    assert row.ratio == Figure(0.851, (0.815, 0.884))
    assert row.note.startswith("medians of 30 interleaved runs, batch 64, 1 thread;")


def test_lines_are_the_rows_to_the_last_digit() -> None:
    assert lines(rows(REPORT)) == [
        ("parameters", "272,186", "144,710", "0.532"),
        ("MACs per sample", "31,021,952", "15,456,416", "0.498"),
        ("bytes on disk", "1,106,024", "594,768", "0.538"),
        ("latency, ms", "292.50", "250.90", "0.851"),
        ("latency, ms, quartiles", "287.30 to 314.30", "237.70 to 277.20", "0.815 to 0.884"),
        ("accuracy, before recovery", "93.76 %", "13.76 %", "-80.00 points"),
        ("accuracy, recovered", "93.76 %", "93.22 %", "-0.54 points"),
    ]


def test_counted_shares_have_a_ratio_alone() -> None:
    found = {line[0]: line[1:] for line in lines(costs(blocks_report()))}
    assert found["bits, counted"] == ("", "", "0.380")
    assert found["multiplications, counted"] == ("", "", "0.420")


@pytest.mark.parametrize(
    ("shared", "advice"), [(1.0, "epochs=0.* is simpler"), (0.7, "others than magnitudes choose")]
)
def test_the_way_to_the_blocks_stands_before_the_scores_with_advice(shared: float, advice: str) -> None:
    report = blocks_report()
    assert report.structure is not None
    structure = replace(report.structure, approach=Approach(0.21, 0.04, 0.99, shared))
    found = rows(replace(report, structure=structure))
    assert [row.key for row in found][-6:] == ["magnitude", "same", "primal", "dual", "score", "score"]
    assert [row.pruned for row in found][-6:-2] == [Figure(v) for v in (shared, 0.99, 0.21, 0.04)]
    assert re.search(advice, found[-6].note)
    assert lines(found)[-4] == ("|W - Z| / |W|", "", "0.210", "-")


def test_scores_are_written_as_their_metric_says() -> None:
    perplexity = Metric("perplexity", higher_is_better=False, format=MetricFormat.NUMBER)
    (row,) = scores(perplexity, Scores(15.331, 17.68))
    assert lines([row]) == [("perplexity, nothing repaired", "15.33", "17.68", "+2.349")]
    assert row.note == "lower is better"
    assert score(Metric(), "accuracy", 0.9).note == ""


def test_a_network_alone_has_neither_pruned_nor_ratio() -> None:
    timing = Timing(Latency(2.0, 1.5, 2.5), rounds=10, batch=4, threads=2)
    found = [*sizes(Size(10, 20, 30)), latency(timing), score(Metric(), "accuracy", 0.5)]
    assert lines(found) == [
        ("parameters", "10", "", ""),
        ("MACs per sample", "20", "", ""),
        ("bytes on disk", "30", "", ""),
        ("latency, ms", "2.00", "", ""),
        ("latency, ms, quartiles", "1.50 to 2.50", "", ""),
        ("accuracy", "50.00 %", "", ""),
    ]


def test_of_nothing_there_is_no_ratio() -> None:
    assert lines(sizes(Size(10, 0, 100), Size(10, 0, 100)))[1] == ("MACs per sample", "0", "0", "-")


@given(dense=st.integers(1, 2**62), pruned=st.integers(0, 2**62))
def test_ratios_are_pruned_by_dense(dense: int, pruned: int) -> None:
    for row in sizes(Size(dense, dense, dense), Size(pruned, pruned, pruned)):
        assert row.ratio is not None
        assert row.ratio.value == pytest.approx(pruned / dense)
        assert row.change == f"{pruned / dense:.3f}"
