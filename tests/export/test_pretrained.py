"""Pruned Hugging Face models: saved, loaded in a fresh process, exported, and hostile folders refused."""

import json
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import resign
from command_line import run_json
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import secateur as sc
from secateur.export import load_pretrained, save_pretrained
from secateur.ground.errors import ArtefactError, ExportError
from secateur.surgery import fingerprint


def bert() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=32,
            attn_implementation="eager",
        )
    )


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=32,
            use_cache=False,
            tie_word_embeddings=True,
        )
    )


def pruned(model: nn.Module) -> sc.Result:
    tokens = torch.randint(0, 50, (32, 10))
    return sc.prune(
        model.eval(), {"input_ids": tokens[:2]}, method=sc.SNP(), budget=sc.Budget(macs=0.8),
        calibration=[{"input_ids": part} for part in tokens.split(8)], progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_pretrained(pruned(bert()), tmp_path_factory.mktemp("bert") / "small")


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "small"))


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing unpickled."""

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"asked for {args[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch, "load", refuse)


def change_config(
    folder: Path, change: dict[str, Any], name: str = "config.json", whole: bool = False
) -> None:
    path = folder / name
    old = {"secateur": {"attention": "sdpa"}} if whole else json.loads(path.read_text())
    path.write_text(json.dumps(old | change))
    resign(folder)


FRESH = """
import sys
from safetensors.torch import load_file, save_file
from secateur.export import load_pretrained

model = load_pretrained(sys.argv[1])
tokens = load_file(sys.argv[2])["tokens"]
save_file({"out": model(tokens)[0].detach()}, sys.argv[3])
print(type(model).__name__, model.training, model.config._attn_implementation)
"""


@pytest.mark.parametrize("build", [bert, llama])
def test_loads_in_a_fresh_process(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(1)
    result = pruned(build())
    save_pretrained(result, tmp_path / "small")
    tokens = torch.randint(0, 50, (3, 10))
    save_file({"tokens": tokens}, tmp_path / "in.safetensors")
    paths = [str(tmp_path / name) for name in ("small", "in.safetensors", "out.safetensors")]
    code = f"import torch; torch.set_num_threads(1)\n{FRESH}"
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    attention = result.model.config._attn_implementation  # type: ignore[union-attr]
    assert done.stdout.split() == [type(result.model).__name__, "False", attention]
    assert torch.equal(load_file(paths[2])["out"], result.model(tokens)[0])


def test_decoders_generate_and_stay_tied(tmp_path: Path) -> None:
    torch.manual_seed(2)
    result = pruned(llama())
    loaded: Any = load_pretrained(save_pretrained(result, tmp_path / "small"))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    prompt = torch.randint(0, 50, (1, 4))
    wanted: Any = result.model
    for cache in (False, True):
        text = loaded.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=cache)
        assert torch.equal(text, wanted.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=False))


def limited(**limits: Any) -> sc.Result:
    calibration = [{"input_ids": x} for x in torch.randint(1, 50, (32, 12)).split(16)]
    return sc.prune(
        llama().eval(),
        calibration[0],
        method=sc.SNP(),
        budget=sc.Budget(params=0.75),
        calibration=calibration,
        limits=sc.Limits(**limits),
        progress=False,
    )


HEADS = {"intermediate_size", "num_attention_heads", "num_key_value_heads"}


@pytest.mark.parametrize(
    ("limits", "changed"),
    [
        ({"exclude": ("*self_attn*",)}, {"intermediate_size"}),
        ({"keep": {"*.k_proj": 0.5}}, HEADS),
    ],
)
def test_uniform_widths_stand_in_the_configuration(
    limits: dict[str, Any], changed: set[str], tmp_path: Path
) -> None:
    """So that transformers loads it, where secateur is not installed."""
    result = limited(uniform=True, **limits)
    path = save_pretrained(result, tmp_path / "small")
    config = json.loads((path / "config.json").read_text())
    dense = config["secateur"]["dense"]
    assert {key for key in dense if dense[key] is not None and dense[key] != config[key]} == changed
    again = AutoModelForCausalLM.from_pretrained(path).eval()
    ids = torch.randint(1, 50, (3, 9))
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, result.model.eval()(ids).logits, atol=1e-5)
        assert torch.equal(load_pretrained(path)(ids).logits, result.model(ids).logits)


def test_widths_that_differ_between_layers_stay_out(tmp_path: Path) -> None:
    result = limited(keep={"model.layers.0.mlp.up_proj": 0.9}, exclude=("*self_attn*",))
    config = json.loads((save_pretrained(result, tmp_path / "small") / "config.json").read_text())
    assert "dense" not in config["secateur"]
    assert config["intermediate_size"] == 48


def test_biases_that_the_class_does_not_make_come_back(tmp_path: Path) -> None:
    model = llama().eval()
    for layer in model.model.layers:
        layer.mlp.down_proj.bias = nn.Parameter(torch.randn(layer.mlp.down_proj.out_features))
    result = pruned(model)
    again = load_pretrained(save_pretrained(result, tmp_path / "small"))
    ids = torch.randint(1, 50, (3, 9))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, result.model(ids).logits)


def test_saved_again_and_with_a_tokenizer_beside(folder: Path) -> None:
    save_pretrained(pruned(bert()), folder)  # an older artefact is replaced
    (folder / "tokenizer.json").write_text("{}")
    load_pretrained(folder)
    with pytest.raises(ArtefactError, match="tokenizer"):
        save_pretrained(pruned(bert()), folder)


def test_the_command_needs_no_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "export", str(folder), "-o", str(tmp_path / "small.onnx"))
    assert found["free"] == [0, 1]
    assert found["checked"] == [[1, 32], [3, 16]]
    assert found["max_difference"] < 1e-5


def test_other_models_are_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = torch.randn(64, 8)
    result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
    with pytest.raises(ExportError, match=r"Result\.save"):
        save_pretrained(result, tmp_path / "net")
    result.save(tmp_path / "net")
    with pytest.raises(ArtefactError, match=r"config\.json"):
        load_pretrained(tmp_path / "net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "evil--model.Model"}}, "auto_map"),
        ({"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({"secateur": {"attention": "evil/kernel"}}, "attention"),
        ({"secateur": None}, "save_pretrained"),
        ({"text_config": {"quantization_config": {"quant_method": "x"}}}, "quantization_config"),
        ({"use_pretrained_backbone": True}, "use_pretrained_backbone"),
        ({"architectures": ["BertModle"]}, "Did you mean 'BertModel'"),
        ({"architectures": ["AutoModel"]}, "AutoModel"),
        ({"architectures": ["__loader__"]}, "does not have"),
        ({"architectures": []}, "one class"),
        ({"hidden_size": "large"}, "does not make a BertModel"),
        ({"num_hidden_layers": 3}, "does not fit"),
    ],
)
@pytest.mark.usefixtures("sealed")
def test_hostile_configurations_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    change_config(folder, change)
    with pytest.raises(ArtefactError, match=message):
        load_pretrained(folder)


TIMM = {
    "architectures": ["TimmWrapperModel"],
    "model_type": "timm_wrapper",
    "architecture": "resnet18",
    "num_classes": 1,
    "label_names": ["a"],
}


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TIMM | {"architecture": "hf-hub:evil/model"}, "no plain word"),
        (TIMM | {"architecture": "local-dir:."}, "no plain word"),
        (TIMM | {"architecture": "../weights"}, "no plain word"),
        (TIMM | {"model_args": {"checkpoint_path": "small/weights.pth"}}, "checkpoint_path.*elsewhere"),
        (TIMM | {"model_args": {"pretrained": True}}, "pretrained.*elsewhere"),
        (TIMM | {"model_args": {"pretrained_cfg": {"url": "http://evil"}}}, "pretrained_cfg.*elsewhere"),
        (TIMM | {"model_args": {"act_layer": "gelu"}}, "plain sizes only"),
        (TIMM | {"model_args": {"scriptable": True}}, "plain sizes only"),
        (TIMM | {"model_args": {"num_classes": 10**9}}, "more than the 65536"),
        (TIMM, "does not fit config.json"),
        ({"architectures": ["TimmBackbone"], "model_type": "timm_backbone", "backbone": "hf-hub:evil/m"}, "elsewhere"),
        ({"architectures": ["TimmBackbone"], "model_type": "timm_backbone"}, "family 'timm_backbone'"),
        ({"architectures": ["DetrModel"], "model_type": "detr"}, "family 'detr'"),
        ({"architectures": ["BertModel"], "model_type": "timm_wrapper"}, "its class is for 'bert'"),
        ({"architectures": ["CLIPModel"], "model_type": "clip", "text_config": {"model_type": "bert"}},
         "its class is for"),
        ({"architectures": ["BertModel"], "model_type": "bert", "id2label": {"0": {}}}, "names of classes"),
    ],
)  # fmt: skip
def test_foreign_families_and_names_are_refused_before_a_library_is_called(
    folder: Path, config: dict[str, Any], message: str
) -> None:
    change_config(folder, config, whole=True)
    with pytest.raises(ArtefactError, match=message):
        load_pretrained(folder)


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"secateur": {"attention": "eager", "dense": {"vocab_size": 9}}}, "widths of the dense model"),
        ({"secateur": {"attention": "eager", "dense": {"ffn_dim": "9"}}}, "widths of the dense model"),
        ({"vocab_size": 2**30, "hidden_size": 2**15}, "does not fit config.json"),
        ({"num_hidden_layers": 3000}, "more than .* modules"),
        ({"num_hidden_layers": 10**9}, "more than the 65536"),
        ({"intermediate_size": 10**30}, "more than the 2147483648"),
        ({"id2label": None, "num_labels": 10**12}, "more than the 65536"),
    ],
)
def test_huge_sizes_allocate_nothing(folder: Path, change: dict[str, Any], message: str) -> None:
    change_config(folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtefactError, match=message):
        load_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.usefixtures("sealed")
def test_a_dense_model_far_larger_than_the_artefact_is_not_made(folder: Path) -> None:
    huge = {"intermediate_size": 2**28}
    config = json.loads((folder / "config.json").read_text()) | huge
    with torch.device("meta"):
        print_of = fingerprint(BertModel(BertConfig(**{k: v for k, v in config.items() if k != "secateur"})))
    plan = json.loads((folder / "plan.json").read_text())
    plan["plan"]["made_for"]["digest"] = print_of.digest
    (folder / "plan.json").write_text(json.dumps(plan))
    change_config(folder, huge)
    with pytest.raises(ArtefactError, match=r"asks for [\d,]+ values, far more than"):
        load_pretrained(folder)


@pytest.mark.usefixtures("sealed")
def test_settings_of_generation_are_checked(tmp_path: Path) -> None:
    torch.manual_seed(3)
    folder = save_pretrained(pruned(llama()), tmp_path / "small")
    load_pretrained(folder)
    for change in (
        {"custom_generate": "evil/repository"},
        {"surprise": 1},
        {"cache_implementation": "evil/kernel"},
    ):
        content = (folder / "generation_config.json").read_bytes()
        change_config(folder, change, "generation_config.json")
        with pytest.raises(ArtefactError, match=next(iter(change))):
            load_pretrained(folder)
        (folder / "generation_config.json").write_bytes(content)


def test_a_changed_configuration_is_seen(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(ArtefactError, match=r"config\.json was changed"):
        load_pretrained(folder)


def test_where_a_model_came_from_is_not_saved(once: Path, tmp_path: Path) -> None:
    model: Any = bert()
    model.config._name_or_path = "somebody/bert"
    folder = save_pretrained(pruned(model), tmp_path / "small")
    assert "somebody" not in (folder / "config.json").read_text()
    load_pretrained(folder)
    change_config(folder, {"_name_or_path": "/etc"})
    with pytest.raises(ArtefactError, match="_name_or_path"):
        load_pretrained(folder)
    assert (once / "README.md").read_text().startswith("---\ntags:")
