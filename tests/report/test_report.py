"""The report as data, and in a notebook."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import blocks_report, full_report, sparse_report

from secateur.measure import Size
from secateur.report import Findings, Report, page
from secateur.report.read import report_from_json
from secateur.report.rows import lines, rows

REPORT = full_report(1)
ALL = [full_report(), sparse_report(), blocks_report()]


def test_json_is_plain_and_complete() -> None:
    data = REPORT.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["before"] == {"params": 272_186, "macs": 31_021_952, "bytes": 1_106_024}
    assert data["ratios"] == {
        "params": pytest.approx(144_710 / 272_186),
        "macs": pytest.approx(15_456_416 / 31_021_952),
        "bytes": pytest.approx(594_768 / 1_106_024),
        "latency": 0.851,
    }
    assert data["metric"] == {"name": "accuracy", "higher_is_better": True, "format": "percent"}
    assert data["scores"] == {
        "dense": 0.9376,
        "pruned": 0.1376,
        "recovered": 0.9322,
        "distilled": None,
        "finetuned": None,
    }
    assert data["latency"]["pruned"]["median_ms"] == 250.9
    assert data["kept"] == {"layer0.0.conv1": [8, 16]}
    assert data["environment"]["cpu"] == "Some CPU"
    assert "recipe" not in data


@pytest.mark.parametrize("report", ALL)
def test_data_make_the_report_again(report: Report) -> None:
    assert report_from_json(json.loads(json.dumps(report.to_json())), dict(report.recipe)) == report


def test_ratios_are_those_of_the_rows() -> None:
    assert sparse_report().ratios().keys() == {"params", "macs", "bytes", "connections", "zipped", "latency"}
    assert blocks_report().ratios()["bits"] == 0.38
    bare = replace(REPORT, latency=None, before=Size(10, 0, 100), after=Size(10, 0, 50))
    assert bare.ratios() == {"params": 1.0, "macs": None, "bytes": 0.5, "latency": None}


@pytest.mark.parametrize("report", ALL)
def test_the_representation_is_short(report: Report) -> None:
    text = repr(report)
    assert text.startswith(f"Report({report.method}, budget {report.budget}: parameters ")
    assert len(text) < 260
    assert "\n" not in text
    assert "accuracy 93.76 % -> 93.22 %" in repr(REPORT)


class Cells(HTMLParser):
    """The text of each cell of a table, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def ascii_figures(cell: str) -> str:
    return cell.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("report", ALL)
def test_a_notebook_shows_the_table(report: Report) -> None:
    html = report._repr_html_()
    shown = [tuple(map(ascii_figures, row)) for row in Cells(html).rows[1:]]
    assert shown == lines(rows(report))
    assert len(html) < 3000
    assert "<style" not in html


@given(name=st.text(min_size=1))
def test_names_in_a_notebook_are_text(name: str) -> None:
    hostile = replace(REPORT, model=f"<script>{name}", metric=replace(REPORT.metric, name=f"<img>{name}"))
    tags = set(Cells(hostile._repr_html_()).tags)
    assert tags == {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_report_is_its_findings() -> None:
    """What shows a report asks for its data alone."""
    fields = {name: getattr(REPORT, name) for name in REPORT.__dataclass_fields__}
    assert page({"a": Findings(**fields)}) == page({"a": REPORT})


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    path = REPORT.to_html(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == page({REPORT.model: REPORT})
