"""The model card: Markdown with the table and the recipe, in which names are only names."""

import re
from dataclasses import replace

import yaml
from hypothesis import given
from hypothesis import strategies as st
from reports import ATTACK, full_report, hostile_report, sparse_report

from secateur.report import model_card
from secateur.report.rows import lines, rows

REPORT = full_report()


def recipe_of(card: str) -> str:
    found = re.search(r"^(`{3,})yaml\n(.*)^\1$", card, re.DOTALL | re.MULTILINE)
    assert found
    return found[2]


def test_the_table_is_that_of_the_report() -> None:
    card = model_card(REPORT)
    for line in lines(rows(REPORT)):
        assert f"| {' | '.join(line)} |" in card
    assert "# zoo:resnet20-fashion\n" in card
    assert "Pruned by secateur: SNP, budget 50.0% of macs, seed 3." in card
    assert "30 interleaved runs, batch 64, 1 thread" in card
    assert "Some CPU" in card
    assert card == REPORT.to_card()


def test_the_front_matter_is_yaml() -> None:
    _, front, _ = model_card(REPORT).split("---\n", 2)
    assert yaml.safe_load(front) == {"tags": ["secateur", "pruned"]}


def test_the_recipe_can_be_read_back() -> None:
    assert yaml.safe_load(recipe_of(model_card(REPORT))) == REPORT.recipe
    assert yaml.safe_load(recipe_of(model_card(REPORT, {"a": [1, "b"]}))) == {"a": [1, "b"]}
    assert "## Recipe" not in model_card(REPORT, {})


def test_a_recipe_cannot_leave_its_fence() -> None:
    recipe = {"text": "```\n# Out\n````"}
    card = model_card(REPORT, recipe)
    assert yaml.safe_load(recipe_of(card)) == recipe
    assert card.rstrip().endswith("`" * 5)


def test_markup_in_names_is_text() -> None:
    card = model_card(hostile_report(), {})
    assert "<" not in card
    assert ATTACK.replace("<", "&#60;").replace(">", "&#62;") in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


@given(name=st.text(st.sampled_from("ab|`*_[]()<>#\\!~:/&\n\r\x1b@.w-"), min_size=1))
def test_no_name_becomes_markup(name: str) -> None:
    report = replace(sparse_report(), model=name, method=name, metric=replace(REPORT.metric, name=f"m{name}"))
    lines_with, lines_without = (
        model_card(r, {}).splitlines() for r in (report, replace(report, model="x", method="x"))
    )
    assert len(lines_with) == len(lines_without)
    own = model_card(report, {}).replace("---\ntags:\n- secateur\n- pruned\n---", "")
    text = re.sub(r"^(# |\|[ \-:|]+\|$)", "", own, flags=re.MULTILINE)
    assert not re.search(r"[\\`*_\[\]<>~!@]|://", text)
    assert all(line.count("|") in (0, 5) for line in own.splitlines())
