"""A method of somebody else's package: what docs/how-to/add-a-method.md shows, installed, by its own name."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from schema_check import faults_of
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur.cli import app
from secateur.ground.errors import RecipeError
from secateur.ground.plain import to_plain
from secateur.methods.names import names
from secateur.methods.protocol import Method
from secateur.recipes import parse_recipe, schema

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md").read_text()
DATA: dict[str, Any] = {"model": "hers:build", "data": "hers:batches", "budget": {"macs": 0.5}, "threads": 1}
Install = Callable[..., None]


def shown(language: str, first: str) -> str:
    """Return the block of the page that begins with a line."""
    found = re.search(rf"^```{language}\n({re.escape(first)}\n.*?)^```$", PAGE, re.M | re.S)
    assert found, first
    return found[1]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install the page's criterion, as its pyproject.toml says or under other names."""
    project = tomllib.loads(shown("toml", "[project]"))["project"]
    (tmp_path / "quiet.py").write_text(shown("python", "# quiet.py"))
    (tmp_path / "hers.py").write_text(
        "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Sequential("
        "torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))\n"
        "def batches():\n    return [torch.rand(64, 6, generator=torch.Generator().manual_seed(0))]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def make(**methods: str) -> None:
        info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        entries = methods or project["entry-points"]["secateur.methods"]
        lines = "".join(f"{name.replace('_', '-')} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[secateur.methods]\n{lines}")
        importlib.invalidate_caches()
        names.cache_clear()

    monkeypatch.delitem(sys.modules, "quiet", raising=False)
    yield make
    names.cache_clear()
    sys.modules.pop("quiet", None)


def test_the_criterion_of_the_page_is_short() -> None:
    assert len(shown("python", "# quiet.py").splitlines()) < 40


def test_an_installed_method_has_a_name_of_its_own(install: Install) -> None:
    with pytest.raises(RecipeError, match="no method is called 'quiet'"):
        parse_recipe(DATA | {"method": "quiet"})
    install()
    from quiet import Quiet  # type: ignore[import-not-found]

    recipe = parse_recipe(DATA | {"method": {"name": "quiet", "exponent": 2.0, "recovery": "one-pass"}})
    assert recipe.method == Quiet(2.0, recovery=sc.OnePass())
    assert parse_recipe(DATA | {"method": "quiet:Quiet"}).method == Quiet()
    assert to_plain(Quiet(), kind=Method, names=names())["name"] == "quiet"
    with pytest.raises(RecipeError, match=r"unknown key 'method\.exponnt'.*Did you mean 'exponent'"):
        parse_recipe(DATA | {"method": {"name": "quiet", "exponnt": 2.0}})
    with pytest.raises(RecipeError, match=r"method\.exponent: exponent=-1 must be above 0"):
        parse_recipe(DATA | {"method": {"name": "quiet", "exponent": -1}})
    with pytest.raises(RecipeError, match=r"known: .*snp-paper, quiet.*Did you mean 'quiet'"):
        parse_recipe(DATA | {"method": "quite"})
    offered = schema()
    assert list(faults_of(offered, DATA | {"method": {"name": "quiet", "exponent": 2.0}})) == []
    assert list(faults_of(offered, DATA | {"method": {"name": "quiet", "exponnt": 2.0}})) != []


def test_it_is_run_by_the_command_line_and_stands_in_the_report(install: Install, tmp_path: Path) -> None:
    install()
    recipe = DATA | {"method": {"name": "quiet", "exponent": 1.0}, "output": "small"}
    (tmp_path / "a.yaml").write_text(json.dumps(recipe))
    done = CliRunner().invoke(app, ["prune", "a.yaml", "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Quiet" in done.output
    assert "Quiet" in (tmp_path / "small" / "report.html").read_text()
    report = json.loads((tmp_path / "small" / "report.json").read_text())
    assert report["method"] == "Quiet"
    assert report["kept"]["0"][0] <= 8
    assert report["curves"]["0"]
    assert "name: quiet\n" in (tmp_path / "small" / "recipe.yaml").read_text()


def test_its_order_is_that_of_its_scores(install: Install) -> None:
    """Units that are silent go, whatever their weights are."""
    from quiet import Quiet

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        net[0].weight[::2] = 0
        net[0].bias[::2] = 0  # type: ignore[union-attr]
        net[2].weight[:, ::2] = 9
    x = torch.randn(64, 6)
    result = sc.prune(net, x[:2], method=Quiet(), budget=sc.Budget(macs=0.5), calibration=[x], progress=False)
    assert set(result.plan.kept["0"]) == set(range(1, 16, 2))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_anywhere:x", "cannot be imported: No module named"),
        ("quiet:Nothing", "cannot be imported: .*no attribute"),
        ("quiet:readers", "cannot be used: it has no label"),
        ("secateur.methods.kinds:OfUnits", None),
    ],
)
def test_a_method_that_is_broken_is_left_out_with_a_warning(
    install: Install, value: str, why: str | None
) -> None:
    install(broken=value, quiet="quiet:Quiet")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert type(parse_recipe(DATA | {"method": "quiet"}).method).__name__ == "Quiet"
    assert [bool(re.search(f"The method broken .*{why}", str(w.message))) for w in told] == (
        [True] if why else []
    )
    schema()


def test_names_of_secateur_stay_its_own(install: Install) -> None:
    install(snp="quiet:Quiet")
    assert parse_recipe(DATA | {"method": "snp"}).method == sc.SNP()
