"""Pruned Hugging Face models: saved, loaded in a fresh process, exported, and hostile folders refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import run_json
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import secateur as sc
from secateur.export import load_pretrained, save_pretrained
from secateur.ground.errors import ArtefactError, ExportError


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_pretrained(pruned(bert()), tmp_path / "small")


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
def test_hostile_configurations_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtefactError, match=message):
        load_pretrained(folder)
