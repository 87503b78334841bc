import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import ATTACK, full_report, hostile_report

from secateur.ground.errors import ArtefactError
from secateur.measure import Comparison, Latency, Size
from secateur.report import Accuracy, Report, page, write_page

REPORT = full_report()
PAGES = {
    "one": page({"half": REPORT}),
    "several": page({"half": REPORT, "third": replace(REPORT, accuracy=None), "bare": full_report(0)}),
    "hostile": page({ATTACK: hostile_report()}),
    "hostile, several": page({ATTACK: hostile_report(), "'\"><b>": hostile_report()}),
}


class Elements(HTMLParser):
    """Every element with its attributes, and the text."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def words(text: str) -> str:
    return " ".join(Elements(text).text.split())


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_well_formed_and_stands_alone(name: str) -> None:
    elements = Elements(PAGES[name])
    assert elements.open == []
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "b64"}
    for tag, attributes in elements.found:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value == "data:," or str(value).startswith("#run-"), (tag, key, value)
    (style,) = re.findall(r"<style>(.*?)</style>", PAGES[name], re.DOTALL)
    assert not re.search(r"@import|url\(|https?:|expression", style)
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


@pytest.mark.parametrize("name", ["hostile", "hostile, several"])
def test_every_text_is_escaped(name: str) -> None:
    text = PAGES[name]
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;") > 20
    assert ATTACK in Elements(text).text


def test_all_that_was_measured_is_there_with_its_unit() -> None:
    text = words(PAGES["one"])
    for expected in (
        "zoo:resnet20-fashion",
        "SNP, budget 50.0% of macs, seed 3",
        "93.22 %",
        "\N{MINUS SIGN}0.54 points from the dense 93.76 %",
        "before recovery 13.76 %",
        "251 ms",
        "dense 292 ms; paired ratio 0.85 (middle half 0.81 to 0.88)",
        "batch 64, 1 thread, medians of 30 interleaved runs",
        "15.5 M 0.50 of the dense 31.0 M",
        "145 k 0.53 of the dense 272 k",
        "595 kB 0.54 of the dense 1.11 MB",
        "1 985 404 928",
        "layer0.0.conv1",
        "8 of 16",
        "6 more groups",
        "relative loss 1.1 %",
        "a residual stream: layers that read it add to it",
        "6 groups",
        "an operator that is not known",
        "40 dimensions",
        "model.py:12",
        "1 min 42 s in all.",
        "statistics",
        "22.2 s",
        "0.1.0, commit 0123456789ab",
        "2.8.0",
        "Some CPU, 1 thread",
        "differ by at most 4.8e-07",
        "macs: 0.5",
    ):
        assert expected in text, expected


def test_ratios_never_stand_without_what_was_measured() -> None:
    """Law 9: every share of dense comes with both amounts."""
    for figure in re.findall(r'<p class="change">(.*?)</p>', PAGES["one"]):
        assert "dense" in figure
        assert re.search(r"dense [\d.]+\s(M|k|kB|MB|ms|%)", figure), figure


def test_drawings_have_titles_and_points() -> None:
    drawings = re.findall(r"<svg .*?</svg>", PAGES["one"])
    assert len([d for d in drawings if 'class="plot"' in d]) == 2
    assert len([d for d in drawings if 'class="spectrum"' in d]) == 30
    for drawing in drawings:
        assert re.search(r'role="img"><title>[^<]+</title>', drawing)
        assert "nan" not in drawing
    work = next(d for d in drawings if "Accuracy against MACs per sample" in d)
    kinds = re.findall(r'<circle class="(\w+)"', work)
    assert sorted(kinds) == ["cut", "dense", "final"]


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, accuracy=None),
        replace(REPORT, latency=None),
        replace(
            REPORT,
            latency=None,
            accuracy=None,
            curves={},
            refused={},
            frozen=(),
            kept={},
            seconds={},
            recipe={},
        ),
        replace(REPORT, before=Size(10, 0, 100), after=Size(10, 0, 100)),
        replace(REPORT, accuracy=Accuracy(0.9)),
        replace(REPORT, accuracy=Accuracy(0.9, 0.9, 0.9, 0.9)),
        replace(REPORT, accuracy=Accuracy(0.0, 0.0)),
        replace(
            REPORT,
            latency=Comparison(Latency(1, 1, 1), Latency(1, 1, 1), 1, 1, 1, rounds=2, batch=1, threads=2),
        ),
    ],
)
def test_what_was_not_measured_is_left_out(report: Report) -> None:
    text = page({"run": report})
    elements = Elements(text)
    assert elements.open == []
    assert "None" not in elements.text
    assert "nan" not in elements.text
    assert ("Latency" in elements.text) == (report.latency is not None)
    assert ("Accuracy against cost" in elements.text) == (report.accuracy is not None)
    assert ("not measured This run had no evaluation" in words(text)) == (report.accuracy is None)


def test_every_stage_is_told_by_its_name() -> None:
    stages = Accuracy(dense=0.9, pruned=0.2, recovered=0.8, distilled=0.85, finetuned=0.89)
    text = words(page({"run": replace(REPORT, accuracy=stages)}))
    assert "Accuracy, fine-tuned 89.00" in text
    for expected in ("before recovery 20.00", "recovered 80.00", "distilled", "85.00"):
        assert expected in text
    bare = words(page({"run": replace(REPORT, accuracy=Accuracy(dense=0.9, pruned=0.2))}))
    assert "Accuracy, pruned, nothing repaired 20.00" in bare
    assert "before recovery" not in bare.replace("recovery changes", "")


def test_several_runs_stand_beside_each_other() -> None:
    text = words(PAGES["several"])
    assert "3 runs compared" in text
    assert "not measured" in text
    assert re.findall(r'id="run-(\d)"', PAGES["several"]) == ["1", "2", "3"]
    plot = next(d for d in re.findall(r"<svg .*?</svg>", PAGES["several"]) if 'class="plot"' in d)
    assert re.findall(r'class="label"[^>]*>(\d)<', plot) == ["1", "3"]  # the second has no accuracy


def test_runs_that_cannot_be_compared_say_so() -> None:
    assert REPORT.latency is not None
    other = replace(
        REPORT,
        before=Size(1, 2, 3),
        latency=replace(REPORT.latency, batch=1),
        environment=replace(REPORT.environment, cpu="Another CPU"),
    )
    text = words(page({"a": REPORT, "b": other}))
    assert "networks of different sizes" in text
    assert "different batch sizes" in text
    assert "different processors" in text
    assert "compare ratios" not in words(page({"a": REPORT, "b": REPORT}))


def test_a_page_needs_a_report() -> None:
    with pytest.raises(ValueError, match="at least one"):
        page({})


def test_the_same_report_makes_the_same_page(tmp_path: Path) -> None:
    path = REPORT.to_html(tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == page({REPORT.model: REPORT}) == page({REPORT.model: REPORT})


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "report.html"):
        with pytest.raises(ArtefactError, match="cannot be written"):
            write_page(path, "text")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
