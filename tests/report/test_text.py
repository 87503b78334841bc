"""The report in a terminal: all rows, their notes, and nothing that a terminal would obey."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import blocks_report, full_report, hostile_report, sparse_report

from secateur.measure import Size
from secateur.report import Report
from secateur.report.rows import lines, rows, sizes
from secateur.report.text import plain, printed, shown

REPORT = full_report()


@pytest.mark.parametrize("report", [REPORT, sparse_report(), blocks_report()])
def test_every_row_is_in_the_table(report: Report) -> None:
    text = " ".join(str(report).split())
    for line in lines(rows(report)):
        assert " ".join(" ".join(line).split()) in text


def test_what_has_to_be_known_is_said_once() -> None:
    text = str(REPORT)
    assert text.startswith("SNP, budget 50.0% of macs, seed 3\n")
    assert "Latency: medians of 30 interleaved runs, batch 64, 1 thread;" in text
    assert "differ by at most 4.8e-07." in text
    assert "Time: trace 2.4 s, statistics 22.2 s, recovery 77.5 s." in text
    assert "secateur 0.1.0 (0123456789ab), torch 2.8.0, Python 3.11.7, Some CPU." in text
    assert "Perplexity: lower is better." in str(blocks_report())
    assert str(blocks_report()).count("Bits and multiplications: counted") == 1
    assert "not the network faster" in str(sparse_report())


def test_what_was_not_measured_is_left_out() -> None:
    text = str(replace(REPORT, scores=None, latency=None, seconds={}))
    for word in ("points", "atency", "Time", "None", "batch"):
        assert word not in text


def test_a_network_alone_is_a_list() -> None:
    text = printed(shown(sizes(Size(10, 20, 30))))
    assert re.fullmatch(r"parameters +10\nMACs per sample +20\nbytes on disk +30", text)


def test_a_report_in_a_terminal_is_ascii_but_for_its_rules() -> None:
    assert set(re.findall(r"[^\x20-\x7e\n]", str(REPORT))) == {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}


def test_names_are_no_markup() -> None:
    text = str(replace(REPORT, method="[red]x[/red]", metric=replace(REPORT.metric, name="[b]m[/b]")))
    assert "[red]x[/red]" in text
    assert "[b]m[/b]" in text
    assert "<script>" in str(hostile_report())


NASTY = st.text(
    st.sampled_from("ab\x00\x07\x1b[2J\x9b\x7f\r\n\t\u202e\u200f\u2028\ud800\N{NARROW NO-BREAK SPACE}")
)


@given(name=NASTY)
def test_a_terminal_obeys_nothing_in_a_name(name: str) -> None:
    report = replace(
        full_report(1),
        method=name,
        budget=name,
        model=name,
        seconds={name: 1.0},
        metric=replace(REPORT.metric, name=f"m{name}"),
        environment=replace(REPORT.environment, cpu=name, commit=name),
    )
    for text in (str(report), repr(report)):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert str(report).count("\n") < 40


@given(text=st.text())
def test_plain_text_keeps_what_can_be_shown(text: str) -> None:
    found = plain(text)
    assert found.isprintable()
    if text.isprintable():
        assert found == text
