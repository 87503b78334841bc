import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import ATTACK, blocks_report, full_report, hostile_report, sparse_report

from secateur.ground.errors import ArtefactError
from secateur.measure import Comparison, Latency, Size
from secateur.measure.metric import Metric
from secateur.report import FrozenPart, Report, Scores, page, write_page
from secateur.report.findings import Deployed

REPORT = full_report()
PAGES = {
    "one": page({"half": REPORT}),
    "connections": page({"sparse": sparse_report()}),
    "blocks": page({"blocks": blocks_report()}),
    "kinds": page({"half": REPORT, "sparse": sparse_report(), "blocks": blocks_report()}),
    "several": page({"half": REPORT, "third": replace(REPORT, scores=None), "bare": full_report(0)}),
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


def drawings(text: str) -> list[str]:
    return re.findall(r"(?s)<svg class=\"plot\".*?</svg>", text)


def cells(text: str, name: str) -> list[str]:
    row = next(r for r in re.findall(r"(?s)<tr>.*?</tr>", text) if f'<th scope="row">{name}</th>' in r)
    return [" ".join(cell.split()) for cell in re.findall(r'<td data-name="[^"]*">(.*?)</td>', row)]


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


@given(name=st.text(min_size=1))
def test_no_name_becomes_markup(name: str) -> None:
    plain, hostile = (Elements(page({text: named(text)})) for text in ("x", f"</svg><script>{name}\"'>"))
    # A text that is long enough folds nothing: the elements are the same, whatever the names.
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert [sorted(a) for _, a in hostile.found] == [sorted(a) for _, a in plain.found]


def named(text: str) -> Report:
    base = hostile_report()
    assert base.sparsity is not None
    assert base.structure is not None
    (block,) = base.structure.layers.values()
    return replace(
        base,
        method=text,
        budget=text,
        model=text,
        seconds={text: 1.0},
        environment=replace(base.environment, cpu=text, torch=text, secateur=text, commit=text, python=text),
        kept={text: (1, 16)},
        curves={text: next(iter(base.curves.values()))},
        refused={text: text},
        frozen=(FrozenPart(text, (text,), (text,)),),
        metric=Metric(text),
        sparsity=replace(base.sparsity, layers={text: (4, 16)}),
        structure=replace(base.structure, layers={text: block}, skipped={text: text}),
        recipe={"text": text},
    )


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
        "medians of 30 interleaved runs, batch 64, 1 thread; ratios are of pairs of runs",
        "15.5 M 0.50 of the dense 31.0 M",
        "145 k 0.53 of the dense 272 k",
        "595 kB 0.54 of the dense 1.11 MB",
        "31,021,952",
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
    found = re.findall(r"(?s)<svg .*?</svg>", PAGES["one"])
    assert len([d for d in found if 'class="plot"' in d]) == 2
    assert len([d for d in found if 'class="spectrum"' in d]) == 30
    for drawing in found:
        assert re.search(r'role="img"[^>]*><title>[^<]+</title>', drawing)
        assert "nan" not in drawing
    work = next(d for d in found if "accuracy against MACs per sample" in d)
    kinds = re.findall(r'<circle class="(\w+)"', work)
    assert sorted(kinds) == ["cut", "dense", "final"]


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, scores=None),
        replace(REPORT, latency=None),
        replace(
            REPORT,
            latency=None,
            scores=None,
            curves={},
            refused={},
            frozen=(),
            kept={},
            seconds={},
            recipe={},
        ),
        replace(REPORT, before=Size(10, 0, 100), after=Size(10, 0, 100)),
        replace(REPORT, scores=Scores(0.9)),
        replace(REPORT, scores=Scores(0.9, 0.9, 0.9, 0.9)),
        replace(REPORT, scores=Scores(0.0, 0.0)),
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
    assert ("Accuracy against cost" in elements.text) == (report.scores is not None)
    assert ("not measured This run had no evaluation" in words(text)) == (report.scores is None)


def test_every_stage_is_told_by_its_name() -> None:
    stages = Scores(dense=0.9, pruned=0.2, recovered=0.8, distilled=0.85, finetuned=0.89)
    text = words(page({"run": replace(REPORT, scores=stages)}))
    assert "Accuracy, fine-tuned 89.00" in text
    for expected in ("before recovery 20.00", "recovered 80.00", "distilled", "85.00"):
        assert expected in text
    bare = words(page({"run": replace(REPORT, scores=Scores(dense=0.9, pruned=0.2))}))
    assert "Accuracy, nothing repaired 20.00" in bare
    assert "before recovery" not in bare


def test_several_runs_stand_beside_each_other() -> None:
    text = words(PAGES["several"])
    assert "3 runs compared" in text
    assert "not measured" in text
    assert re.findall(r'id="run-(\d)"', PAGES["several"]) == ["1", "2", "3"]
    plot = drawings(PAGES["several"])[0]
    assert re.findall(r'class="label"[^>]*>(\d)<', plot) == ["1", "3"]  # the second has no accuracy


def test_times_of_different_runs_are_compared_as_ratios() -> None:
    """Each run's own dense network, timed in the same run, is at one."""
    assert REPORT.latency is not None
    twice = Latency(580.0, 570.0, 590.0)
    slow = replace(
        REPORT, latency=replace(REPORT.latency, dense=twice, pruned=twice, ratio=0.5, ratio_low=0.5)
    )
    text = page({"a": REPORT, "b": slow})
    drawing = next(d for d in drawings(text) if "accuracy against latency, pruned / dense" in d)
    titles = re.findall(
        r"<title>(\d): (\w[^,]*), accuracy [\d.]+ %, latency, pruned / dense ([\d.]+)<", drawing
    )
    assert titles == [
        ("1", "dense", "1"),
        ("1", "before recovery", "0.851"),
        ("1", "recovered", "0.851"),
        ("2", "dense", "1"),
        ("2", "before recovery", "0.5"),
        ("2", "recovered", "0.5"),
    ]
    assert "580" not in drawing


def test_the_table_of_runs_has_paired_ratios_before_milliseconds() -> None:
    text = words(PAGES["several"])
    assert "0.85 of densemiddle half 0.81 to 0.88; 251 ms, dense 292 ms in this run; medians of" in text
    assert "251 msdense" not in text


def test_the_target_has_a_tile_and_its_warning(tmp_path: Path) -> None:
    assert REPORT.latency is not None
    times = replace(REPORT.latency, ratio=1.4, ratio_low=1.3, ratio_high=1.5)
    found = replace(REPORT, deployed=Deployed("an engine", times, 1, 16), original=Size(10**6, 10**8, 10**7))
    text = words(page({"half": found}))
    assert "Latency in an engine" in text
    assert "MACs 0.50, but 1.40 times dense in an engine at batch 64" in text
    assert "Of the original are left: parameters 0.145" in text


def test_runs_of_all_kinds_stand_in_one_table() -> None:
    table = next(t for t in re.findall(r"<table class=\"runs\">.*?</table>", PAGES["kinds"], re.DOTALL))
    head = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert head[:3] == ["Run", "Score", "Latency"]
    for row in re.findall(r"<tr>\n.*?</tr>", table, re.DOTALL):
        assert re.findall(r'data-name="(.*?)"', row)[1:] == head[2:]
    text = words(PAGES["kinds"])
    assert "scored by different metrics" in text
    assert "38 %" in text
    assert "not counted" in text


def test_runs_with_different_metrics_are_not_drawn_together() -> None:
    together = drawings(PAGES["kinds"].split("<details")[0])
    assert len(together) == 2
    assert not any("perplexity" in drawing for drawing in together)


def test_connections_are_shown_by_parameter_and_on_the_way() -> None:
    text = words(PAGES["connections"])
    assert "Connections 15.0 k 0.05 of the dense 272 k" in text
    assert "zeros make the zipped file smaller, not the network faster" in text
    assert cells(PAGES["connections"], "layer0.1.conv1.weight") == ["60 of 2,320", "2.6 %"]
    assert "6 more parameters" in text
    (way,) = [d for d in drawings(PAGES["connections"]) if "<title>The way there" in d]
    assert way.count("<circle") == 14
    assert "<title>80 % of the connections, validation metric 0.9375</title>" in way
    assert any("accuracy against connections" in d for d in drawings(PAGES["connections"]))


def test_blocks_are_shown_by_weight_with_what_stayed_whole() -> None:
    text = words(PAGES["blocks"])
    assert "Perplexity, recovered (lower is better) 17.68 +2.349 from the dense 15.33" in text
    assert "Multiplications, counted 42 % of dense" in text
    assert cells(PAGES["blocks"], "layers.5.mlp.weight") == ["8x1", "288", "43 %", "3.5 %", "54 %"]
    assert "weights not cut into blocks" in text
    assert re.search(r"<td>conv1\.weight</td><td>the first convolution</td>", PAGES["blocks"])
    assert "<title>layers.5.mlp.weight: 43 % of the blocks kept, 3.5 % unified, 54 % zero<" in PAGES["blocks"]
    bars = re.findall(r"(?s)<title>layers\.5\.mlp\.weight: .*?</svg>", PAGES["blocks"])
    assert re.findall(r'class="(kept|unified)" x="([\d.]+)" width="([\d.]+)"', bars[0]) == [
        ("kept", "0.00", "42.71"),
        ("unified", "42.71", "3.47"),
    ]
    assert any("lower is better" in d and "multiplications" in d for d in drawings(PAGES["blocks"]))


def test_a_page_of_very_many_groups_stays_a_page() -> None:
    many = {f"g{n}": (1, 2) for n in range(2100)}
    text = page({"run": replace(full_report(0), kept=many, refused=dict.fromkeys(many, "one reason"))})
    assert "100 more are in the report's data only." in text
    assert "and 100 more" in text
    assert len(text) < 2_000_000


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
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "folder", tmp_path / "file" / "report.html"):
        with pytest.raises(ArtefactError, match="cannot be written"):
            write_page(path, "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
