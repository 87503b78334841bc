"""Which drawings a page has, and that their numbers are those of the report."""

import math
import re
from dataclasses import replace

import pytest
from reports import blocks_report, full_report, sparse_report

from secateur.measure import Size
from secateur.measure.metric import Metric, MetricFormat
from secateur.report import Report, Scores
from secateur.report.charts import pruning_way, score_charts, spectra
from secateur.report.drawing import Chart
from secateur.report.page import environment

REPORT = full_report(3)


def svg(chart: Chart) -> str:
    return str(environment().get_template("chart.html").module.chart(chart))


def captions(*runs: Report) -> list[str]:
    labels = [str(n) for n in range(len(runs))] if len(runs) > 1 else [""]
    return [drawing.caption for drawing in score_charts(list(zip(labels, runs, strict=True)))]


def test_a_score_is_drawn_against_each_cost_that_changed() -> None:
    macs, time = "Accuracy against MACs per sample", "Accuracy against latency"
    assert captions(REPORT) == [macs, time]
    assert captions(sparse_report()) == [macs, "Accuracy against connections", time]
    assert captions(blocks_report()) == [
        "Perplexity against multiplications, counted",
        "Perplexity against latency",
    ]
    assert captions(replace(REPORT, latency=None)) == [macs]
    assert captions(replace(REPORT, latency=None, after=REPORT.before)) == []
    assert captions(replace(REPORT, latency=None, before=Size(1, 0, 1), after=Size(1, 0, 1))) == []
    assert captions(replace(REPORT, scores=None)) == []


def test_runs_are_drawn_together_where_two_have_the_cost() -> None:
    assert captions(REPORT, sparse_report()) == [
        "Accuracy against MACs per sample",
        "Accuracy against latency",
    ]
    assert captions(REPORT, replace(REPORT, latency=None)) == ["Accuracy against MACs per sample"]
    assert captions(REPORT, blocks_report()) == []


def test_points_say_what_they_are() -> None:
    macs, time = (svg(drawing) for drawing in score_charts([("", REPORT)]))
    assert "<title>dense, accuracy 93.76 %, MACs per sample 3.102e+07</title>" in macs
    assert "<title>recovered, accuracy 93.22 %, latency, ms per batch 250.9</title>" in time
    assert re.findall(r'class="label"[^>]*>([^<]*)<', macs) == [
        "dense 93.8 %",
        "before recovery 13.8 %",
        "recovered 93.2 %",
    ]
    assert time.count('class="spread"') == 2


def test_any_finite_scores_make_a_chart() -> None:
    number = Metric("loss", higher_is_better=False, format=MetricFormat.NUMBER)
    for scores in (Scores(0.0), Scores(-1230.0, -1230.0), Scores(1e12, -1e-12, 0.0)):
        for drawing in score_charts([("", replace(REPORT, metric=number, scores=scores))]):
            assert "nan" not in svg(drawing)
            assert "loss, lower is better" in svg(drawing)


def test_spectra_are_of_groups_with_a_curve_on_one_scale() -> None:
    drawn = spectra(REPORT)
    assert [drawing.caption for drawing in drawn] == list(REPORT.kept)
    scales = {tuple(re.findall(r'text-anchor="end">([^<]*%)<', svg(drawing))) for drawing in drawn}
    assert scales == {("100 %", "10 %", "1 %", "0.1 %", "0.01 %")}
    loss = math.exp(-9 * 8 / 16)
    assert drawn[0].words == ("8 of 16 units", f"relative loss {100 * loss:.1f} %")
    assert spectra(replace(REPORT, curves={})) == []


@pytest.mark.parametrize(
    "curve", [[(1.0, 0.9)], [(1.0, 0.9), (0.0, 0.1)], [(1.0, 0.9), (0.5, 0.9), (1e-5, -3.0)]]
)
def test_the_way_has_a_point_for_each_step(curve: list[tuple[float, float]]) -> None:
    drawn = svg(pruning_way(curve))
    assert drawn.count("<circle") == len(curve)
    assert "nan" not in drawn
    for x in re.findall(r'cx="([\d.-]+)"', drawn):
        assert 42 <= float(x) <= 348
