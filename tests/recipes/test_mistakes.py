"""Mistakes in a recipe are told by the key's path and the remedy, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from secateur.ground.errors import RecipeError
from secateur.recipes import parse_recipe

BASE: dict[str, Any] = {"model": "zoo:resnet20-cifar10", "data": "cifar10", "budget": {"macs": 0.5}}
OWN: dict[str, Any] = {"model": "x:y", "data": "x:y"}
UNITS: dict[str, Any] = {"method": "snp", "budget": {"macs": 0.5}}
ZEROS: dict[str, Any] = {"name": "micro-structured", "zero": 0.7, "skip": []}
BOTH = ZEROS | {"unify": 0.15}
ADMM: dict[str, Any] = {"name": "admm", "structure": {"zero": 0.7, "skip": []}, "epochs": 1}
SPARSE: dict[str, Any] = {"method": "nn-relief", "training": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgt": 1}, r"unknown key 'budgt'.*Did you mean 'budget'\?"),
        ({"budget": {"mcs": 0.5}}, r"unknown key 'budget\.mcs'.*Did you mean 'macs'\?"),
        (
            {"budget": {"macs": 0.5, "params": 0.5}},
            "budget: .*exactly one of macs, params, variance, bytes, latency, latency_ms, weights; not macs and params",
        ),
        ({"budget": {}}, "budget: .*exactly one of macs, .*none was given"),
        ({"budget": 0.5}, r"budget: expected a mapping, not 0\.5"),
        ({"budget": {"macs": 0}}, r"budget\.macs: .*above 0"),
        ({"budget": {"macs": True}}, r"budget\.macs: .*valid number, not True"),
        ({"budget": {"macs": float("nan")}}, r"budget\.macs: .*finite"),
        ({"budget": {"params": "100_000"}}, r"budget\.params: .*numbers have no quotes and no underscores"),
        ({"budget": {"variance": 1.5}}, r"budget\.variance: .*at most 1"),
        ({"budget": {"latency": 12}}, r"budget\.latency: .*at most 1; for milliseconds write latency_ms=12"),
        ({"budget": {"latency_sm": 1}}, r"Did you mean 'latency_ms'\?"),
        (
            {"budget": {"weights": 0.5}},
            r"budget: SNP goes to budgets of macs, .*: for instance .*, not weights",
        ),
        (
            {"budget": None},
            r"budget: SNP goes to a budget, and none is given: .* for instance \{macs: 0\.5\}",
        ),
        ({"calibration": False}, "calibration: SNP looks at data: leave the key out"),
        ({"method": "snpp"}, r"method: no method is called 'snpp'; known: snp, .*Did you mean 'snp'\?"),
        ({"method": 3}, "method: expected a name or a mapping, not 3"),
        ({"method": {"p": 1}}, r"'method\.name' is missing; known: snp"),
        ({"method": "math:sqrt"}, "method: math:sqrt is no method: it has no 'draft'"),
        ({"method": "secateur.methods:SPN"}, r"method: 'secateur\.methods' has no 'SPN'.*Did you mean 'SNP'"),
        ({"method": {"name": "magnitude", "recovry": None}}, r"'method\.recovry'.*Did you mean 'recovery'\?"),
        ({"method": {"name": "magnitude", "p": 0}}, r"method\.p: p=0 must be at least 1"),
        ({"method": {"name": "snp", "p": 1}}, r"unknown key 'method\.p'; known: .*order"),
        (
            {"method": {"name": "snp", "recovery": "none"}},
            r"method\.recovery: no recovery .* Write null for none",
        ),
        (
            {"method": {"name": "snp", "recovery": {"name": "sequential", "sweeps": 2}}},
            r"recovery\.sweeps: .*3",
        ),
        (
            {"method": {"name": "snp", "recovery": {"name": "one-pass", "ridges": []}}},
            r"recovery\.ridges: ridges",
        ),
        (
            {"method": {"name": "taylor", "loss": "torch.nn.functional:cross_entropie"}},
            r"method\.loss: .*Did you mean 'cross_entropy'",
        ),
        (
            {"method": {"name": "taylor", "loss": "__main__:loss"}},
            r"method\.loss: __main__:loss cannot be imported",
        ),
        ({"exclude": ["fc"]}, r"unknown key 'exclude'.*Did you mean 'limits\.exclude'\?"),
        ({"limits": {"exclude": "fc"}}, r"limits\.exclude: expected a list, not 'fc': write \[fc\]"),
        ({"limits": {"exclude": [{"typ": "Linear"}]}}, r"'limits\.exclude\.0\.typ'.*Did you mean 'type'\?"),
        ({"limits": {"exclude": [{"type": "Linaer"}]}}, r"limits\.exclude\.0: .*Did you mean 'Linear'\?"),
        ({"limits": {"exclude": [{"type": "functional"}]}}, r"limits\.exclude\.0: functional is not a class"),
        ({"limits": {"keep": {"fc": 0}}}, "limits: keep: 'fc': 0 is neither a share of the units"),
        ({"limits": {"keep": {"fc": 1.5}}}, "limits: keep: 'fc': 1.5 is neither a share of the units"),
        ({"limits": {"round_to": 0}}, r"limits\.round_to: .*at least 1"),
        ({"limits": {"streams": "yes"}}, r"limits\.streams: expected true or false, not 'yes'"),
        ({"distill": {"step": 3}}, r"'distill\.step'.*Did you mean 'steps'"),
        ({"distill": {"steps": 0}}, r"distill\.steps: .*at least 1"),
        ({"distill": {"lr": 0}}, r"distill\.lr: .*above 0"),
        ({"data": {"name": "cifar10", "calibration": 0}}, r"data\.calibration: .*at least 1"),
        ({"data": {"name": "cifar10", "seed": -1}}, r"data\.seed: .*0 or above"),
        ({"data": {"name": "cifar10", "augment": "shft"}}, r"data\.augment: .*Did you mean 'shift'\?"),
        ({"data": None}, "data: expected text or a mapping, not None"),
        ({"example": [1, -3]}, r"example: .*\[1, -3\] must hold sizes of at least 1"),
        ({"example": []}, "example: .*sizes"),
        ({"example": 3}, r"example: expected a list, not 3: write \[3\]"),
        ({"evaluate": "math:sqr"}, "evaluate: .*Did you mean 'sqrt'"),
        ({"evaluate": "score"}, "evaluate: expected a function, as module:name"),
        ({"threads": 0}, "threads: .*at least 1"),
        ({"threads": 1.5}, r"threads: expected a whole number, not 1\.5"),
        ({"seed": -1}, "seed: .*0 or above"),
        ({"model": {}}, r"'model\.name' is missing"),
        ({"training": {}}, "training: SNP prunes without training: leave the key out"),
        ({"pack": "a.sec"}, "'output' is missing: the folder"),
        (
            {"output": "a", "pack": {"file": "a.sec", "exclude": ["x"]}},
            r"unknown key 'pack\.exclude'.*Did you mean 'pack\.quantise\.exclude'\?",
        ),
        (
            {"output": "a", "pack": {"file": "a.sec", "quantise": {"bits": 5}}},
            r"pack\.quantise\.bits: .*16, 8 and 4",
        ),
        ({"then": [{}]}, r"the key 'then\.0\.method' is missing"),
        ({"then": {}}, "then: expected a list, not dict"),
        ({1: 2}, "unknown key '1'"),
    ],
    ids=lambda x: str(x)[:50],
)
def test_mistakes_are_named_with_their_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(BASE | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": ZEROS | {"block": "8by1"}}, r"method\.block: '8by1' is no block: write rows x columns"),
        ({"method": ZEROS | {"block": "0x1"}}, r"method\.block: Block rows=0"),
        ({"method": ZEROS | {"zero": 1.2}}, r"method\.zero: .*from 0 to 1"),
        ({"method": ZEROS | {"unify": 0.4}}, r"method: .*more than all blocks together"),
        ({"method": ZEROS | {"blok": "8x1"}}, r"unknown key 'method\.blok'.*Did you mean 'block'"),
        (
            {"method": ZEROS | {"skip": [{"place": "last"}]}},
            r"method\.skip\.0\.place: expected 'first-convolution' or 'head', not 'last'",
        ),
        (
            {"method": ZEROS | {"skip": [{}]}},
            r"'method\.skip\.0\.type' is missing\. Or: the key 'method\.skip\.0\.place' is missing",
        ),
        (
            {"method": ZEROS | {"skip": [{"type": "Linear", "place": "head"}]}},
            r"unknown key 'method\.skip\.0\.place'; known: type\. Or: unknown key 'method\.skip\.0\.type'",
        ),
        ({"method": ZEROS | {"skip": [{"type": "Linaer"}]}}, r"method\.skip\.0: .*Did you mean 'Linear'"),
        ({"method": ZEROS, "training": {}}, "training: MicroStructured prunes without training"),
        (
            {"method": ZEROS, "budget": {"params": 0.5}},
            "budget: MicroStructured goes to budgets of macs, bytes, .*, not params",
        ),
        (
            {"method": ZEROS, "limits": {"streams": True}},
            "limits: MicroStructured removes no units, .*leave the key",
        ),
        (
            {"method": ZEROS, "distill": {}},
            "distill: MicroStructured has no use for distill: leave the key out",
        ),
        (
            {"method": ADMM},
            r"training: ADMM prunes while it trains: add the key, for instance \{epochs: 10\}",
        ),
        ({"method": ADMM | {"epochs": 3}, "training": {}}, r"training: ADMM needs up to 3 epochs.*has 1"),
        (
            {"method": ADMM | {"zero": 0.5}, "training": {}},
            r"'method\.zero'.*Did you mean 'method\.structure\.zero'",
        ),
        (
            {"method": ADMM, "training": {}, "budget": {"weights": 0.1}},
            "budget: ADMM goes to no budget, its own options decide: leave the key out",
        ),
        ({"method": "dead-units", "budget": {"macs": 0.1}}, "budget: DeadUnits goes to no budget"),
        (
            UNITS | {"then": [{"method": "micro-structured"}, UNITS]},
            r"then\.1\.method: SNP removes units, which comes before zeros and blocks: put it before",
        ),
        (UNITS | {"then": [{"method": ADMM}]}, r"then\.0\.training: ADMM prunes while it trains"),
        (
            UNITS | {"then": [{"method": ADMM | {"epochs": 2}, "training": {}}]},
            r"then\.0\.training: ADMM needs up to 2",
        ),
        (UNITS | {"then": [{"metod": ADMM}]}, r"unknown key 'then\.0\.metod'.*Did you mean 'method'"),
        (UNITS | {"then": [{"method": ZEROS | {"zro": 0}}]}, r"'then\.0\.method\.zro'.*Did you mean 'zero'"),
        (UNITS | {"then": [{"method": ZEROS, "seed": -1}]}, r"then\.0\.seed: .*0 or above"),
        (
            UNITS | {"then": [{"method": BOTH}, {"method": ADMM, "training": {}}]},
            r"then\.1\.method: ADMM, .* would part the unified .*: train first",
        ),
        (
            UNITS | {"then": [{"method": ZEROS}, {"method": ZEROS | {"zero": 0.5}}]},
            r"then\.1\.method: .*zero=0\.5 after zero=0\.7",
        ),
    ],
    ids=lambda x: str(x)[:50],
)
def test_mistakes_of_blocks_and_chains(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(OWN | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": None}, "training: NNRelief prunes while it trains: add the key"),
        ({"method": "snp", "budget": {"macs": 0.5}}, "training: SNP prunes without training: leave"),
        ({"budget": {"macs": 0.5}}, "budget: NNRelief goes to budgets of weights: .*not macs"),
        ({"training": {"epoch": 3}}, r"unknown key 'training\.epoch'.*Did you mean 'epochs'\?"),
        ({"training": {"epochs": 0}}, r"training\.epochs: .*at least 1"),
        ({"training": {"bound": 1}}, r"'training\.bound'.*Did you mean 'training\.validation\.bound'\?"),
        ({"epochs": 3}, r"unknown key 'epochs'.*Did you mean 'training\.epochs'\?"),
        (
            {"training": {"validation": {"bound": {"above": 0.9, "drop": 0.1}}}},
            r"training\.validation\.bound: .*give either a value, Bound\(0\.989\), or a loss",
        ),
        ({"training": {"validation": {"patience": 0}}}, r"training\.validation\.patience: .*at least 1"),
        (
            {"training": {"optimizer": {"name": "adam", "momentum": 0.9}}},
            r"unknown key 'training\.optimizer\.momentum'; known: lr, weight_decay",
        ),
        ({"training": {"optimizer": {"name": "sgd", "lr": 0}}}, r"training\.optimizer\.lr: .*above 0"),
        ({"training": {"schedule": "cosin"}}, r"training\.schedule: .*'cosin'.*Did you mean 'cosine'"),
        ({"training": {"crops": {}}}, "training: Crops wait for the metric to be above a bound"),
        ({"training": {"loader": [1]}}, r"training\.loader: no file can say"),
        ({"training": {"teacher": {"model": "x:y"}}}, r"training\.teacher\.model: no file can say a Module"),
        ({"training": {"rewind": "none.safetensors"}}, r"training\.rewind: none\.safetensors cannot be read"),
        ({"training": {"rewind": {"tensors": 3}}}, r"training\.rewind: expected a path, not dict"),
        (
            {"limits": {"streams": True}},
            "limits: NNRelief removes no units, so that it has no use for limits",
        ),
        ({"method": {"name": "nn-relief", "alpha_conv": 0.0}}, r"method\.alpha_conv: .*above 0"),
        ({"method": "nn-releif"}, "Did you mean 'nn-relief'"),
    ],
    ids=lambda x: str(x)[:50],
)
def test_mistakes_of_training(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(OWN | SPARSE | change)
    assert "loader" not in str(caught.value).partition("known:")[2]


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(RecipeError, match=r"'model' is missing.*'data' is missing"):
        parse_recipe({})
    with pytest.raises(RecipeError, match=r"budget: .*add the key"):
        parse_recipe({"model": "zoo:resnet20-cifar10", "data": "cifar10"})
