import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import RECIPE, run, run_json


def test_help_is_quick_and_does_not_import_torch() -> None:
    code = """
import sys
from secateur.cli import main
try:
    main(sys.argv[1:])
except SystemExit as e:
    assert not e.code, e.code
heavy = {"torch", "numpy", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""
    for arguments in (["--help"], ["prune", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "secateur" in done.stdout


@pytest.mark.parametrize(
    "command",
    ["demo", "prune", "recipes", "schema", "inspect", "measure", "report", "export", "pack", "unpack"],
)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert f"secateur {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("prnue",),
        ("prune",),
        ("inspect", "zoo:lenet5", "--input", "1,x"),
        ("inspect", "zoo:lenet5", "--input", "0,1"),
        ("measure", "zoo:lenet5", "--rounds", "1"),
        ("measure", "zoo:lenet5", "--model", "zoo:lenet5"),
        ("inspect", "zoo:lenet5", "--colour"),
        ("pack",),
        ("pack", "half", "--bits", "5"),
        ("pack", "half", "--exclude", "fc*"),
        ("unpack",),
    ],
)
def test_wrong_usage_exits_with_two(
    arguments: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "zoo:lenet6"), "Did you mean 'lenet5'?"),
        (("inspect", "mine_for_cli:build"), "add --input"),
        (("inspect", "no_such_module_anywhere:build"), "Cannot import"),
        (("measure", "zoo:lenet5", "--seconds", "0", "--data", "cifar-10"), "Did you mean 'cifar10'?"),
        (("prune", "none.yaml"), "no recipe file none.yaml"),
        (("prune", "resnet20-cifar"), "Did you mean 'resnet20-cifar10'?"),
        (("recipes", "resnet20-cifar"), "Did you mean 'resnet20-cifar10'?"),
        (("measure", "zoo:lenet5", "--threads", "99999999"), "threads=99999999 is out of range: from 1 to"),
        (("measure", "bad.yaml"), "bad.yaml"),
        (("pack", "none"), "no artefact at none"),
        (("pack", "bad.yaml"), "is not a safetensors file"),
        (("unpack", "none"), "no packed file at none"),
        (("unpack", "bad.yaml"), "not a packed one"),
        (("prune", "bad.yaml"), "Did you mean 'budget'?"),
        (("prune", "bad.yaml", "--set", "budget"), "KEY=VALUE"),
        (
            ("prune", "bad.yaml", "--set", "budgt=null", "--set", "limits.keep.f1=0.5"),
            "Did you mean 'budget'?",
        ),
    ],
)
def test_errors_are_one_line_and_exit_with_one(
    arguments: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.yaml").write_text("model: zoo:lenet5\ndata: samples.npz\nbudget: {macs: 0.5}\nbudgt: 1\n")
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("secateur: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_inspect(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "inspect", "mine_for_cli:build", "--input", "1,6")
    assert found["parameters"] == 6 * 16 + 16 + 16 * 3 + 3
    assert found["macs"] == 6 * 16 + 16 * 3
    (group,) = found["groups"]
    assert (group["units"], group["producers"], group["consumers"]) == (16, ["0"], ["2"])
    assert any(entry["parameter"] == "2.weight" and entry["dim"] == 0 for entry in found["frozen"])
    assert run("inspect", "mine_for_cli:build", "--input", "1,6") == 0
    assert "frozen" in capsys.readouterr().out


def test_measure_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["measure", "mine_for_cli:build", "--input", "5,6", "--data", "samples.npz"]
    arguments += ["--rounds", "3", "--seconds", "0", "--threads", "1"]
    found = run_json(capsys, *arguments)
    assert found["size"]["macs"] == 6 * 16 + 16 * 3
    assert found["timing"]["batch"] == 5
    assert found["timing"]["threads"] == 1
    assert 0 <= found["accuracy"] <= 1
    assert run(*arguments) == 0
    text = capsys.readouterr().out
    for expected in (
        "parameters",
        "163",
        "MACs per sample",
        "latency, ms, quartiles",
        "accuracy",
        "batch 5, 1 thread",
    ):
        assert expected in text


def test_measure_needs_labels_for_accuracy(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(here / "unlabelled.npz", calibration=np.zeros((2, 6), np.float32))
    assert (
        run("measure", "mine_for_cli:build", "--input", "1,6", "--rounds", "2", "--data", "unlabelled.npz")
        == 1
    )
    assert "no labels" in capsys.readouterr().err


def test_an_artefact_is_measured_against_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "folder").mkdir()
    assert run("measure", "folder") == 1
    assert "no file manifest.json" in capsys.readouterr().err


def test_prune_saves_and_the_artefact_is_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    found = run_json(capsys, "prune", "half.yaml")
    assert found["ratios"]["macs"] <= 0.5
    assert found["output"] == "half"
    assert 0 <= found["scores"]["recovered"] <= 1
    assert (here / "half" / "plan.json").is_file()
    arguments = ["measure", "half", "--model", "mine_for_cli:build", "--input", "4,6", "--seconds", "0"]
    again = run_json(capsys, *arguments, "--data", "samples.npz")
    assert again["after"]["params"] == found["after"]["params"]
    assert again["accuracy"]["pruned"] == found["scores"]["recovered"]
    assert run(*arguments, "--data", "samples.npz") == 0
    text = capsys.readouterr().out
    for expected in ("pruned / dense", "MACs per sample", "points", "interleaved runs, batch 4"):
        assert expected in text


def test_prune_takes_settings_and_an_output(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert (
        run(
            "prune",
            "half.yaml",
            "--set",
            "budget.macs=0.25",
            "--set",
            "method=magnitude",
            "--output",
            "other",
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "MACs" in text
    assert "other" in text
    assert not (here / "half").exists()
    plan = json.loads((here / "other" / "plan.json").read_text())
    assert plan


def test_widths_are_set_by_module_path(here: Path) -> None:
    (here / "half.yaml").write_text(RECIPE)
    options = {"keep.0": "5", "uniform": "true", "round_to": "2"}
    settings = [word for key, value in options.items() for word in ("--set", f"limits.{key}={value}")]
    assert run("prune", "half.yaml", *settings, "--quiet") == 0
    assert json.loads((here / "half" / "report.json").read_text())["kept"] == {"0": [6, 16]}
    assert "keep:\n    '0': 5" in (here / "half" / "recipe.yaml").read_text()


def test_a_recipe_elsewhere_finds_modules_beside_it(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "half.yaml").write_text(RECIPE.replace("samples.npz", str(here / "samples.npz")))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert run("prune", str(here / "half.yaml"), "--quiet") == 0
    assert Path("half", "model.safetensors").is_file()


def test_a_failed_prune_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml", "--set", "budget.macs=0.0001") == 1
    assert "secateur: " in capsys.readouterr().err
    assert not (here / "half").exists()


def test_the_recipe_of_an_artefact_can_be_run_again(here: Path) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml") == 0
    assert run("prune", "half/recipe.yaml", "--output", "again") == 0
    assert (here / "half" / "model.safetensors").read_bytes() == (
        here / "again" / "model.safetensors"
    ).read_bytes()


def test_pruning_writes_a_page_beside_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml") == 0
    text = (here / "half" / "report.html").read_text(encoding="utf-8")
    assert "<h1>mine_for_cli:build</h1>" in text
    assert "relative loss" in text
    assert run("prune", "half.yaml") == 0  # an artefact with a page is replaced as any other


def test_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml") == 0
    assert run("prune", "half.yaml", "--set", "budget.macs=0.7", "--output", "other/half") == 0
    found = run_json(capsys, "report", "half")
    assert found["output"] is None
    assert list(found["reports"]) == ["half"]
    assert found["reports"]["half"] == json.loads((here / "half" / "report.json").read_text())
    assert not (here / "report.html").exists()
    assert run("report", "half") == 0
    assert "Wrote report.html." in capsys.readouterr().out
    assert (here / "report.html").read_text() == (here / "half" / "report.html").read_text()
    arguments = ("report", "half", "other/half", "--output", "both.html")
    assert list(run_json(capsys, *arguments)["reports"]) == ["half", "other/half"]
    assert "2 runs compared" in (here / "both.html").read_text()


def test_report_of_what_is_no_artefact(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "none") == 1
    assert "no artefact" in capsys.readouterr().err
    assert not (here / "report.html").exists()
    assert run("report") == 2


def test_pack_measure_report_and_unpack(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml") == 0
    capsys.readouterr()
    packed = run_json(capsys, "pack", "half")
    assert packed["path"] == "half.sec"
    assert packed["bytes"] == (here / "half.sec").stat().st_size
    assert all(t["bits"] is None for t in packed["tensors"])
    found = run_json(capsys, "unpack", "half.sec", "-o", "again")
    assert found["output"] == "again"
    for name in ("model.safetensors", "plan.json", "recipe.yaml", "report.json"):
        assert (here / "again" / name).read_bytes() == (here / "half" / name).read_bytes()
    assert run_json(capsys, "report", "half.sec")["reports"]["half.sec"] == json.loads(
        (here / "half" / "report.json").read_text()
    )
    timing = ("--rounds", "2", "--seconds", "0")
    arguments = ("--model", "mine_for_cli:build", "--input", "2,6", *timing)
    both = [run_json(capsys, "measure", where, *arguments) for where in ("half", "half.sec")]
    assert both[0].keys() == both[1].keys()


def test_pack_shows_a_table_and_what_was_lost(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml") == 0
    assert run("pack", "half", "-o", "small.sec", "--bits", "8") == 0
    text = capsys.readouterr().out
    assert "8 bit" in text
    assert "Packed into small.sec." in text
    assert run("unpack", "small.sec", "-o", "model.safetensors") == 0  # an artefact is a folder, of any name
    assert (here / "model.safetensors" / "plan.json").exists()
    assert run("unpack", "small.sec") == 0
    assert "rel. error" in capsys.readouterr().out
