"""Tables of documents that are a results file as it is: section, file, and its columns with heading and format."""

from __future__ import annotations

from collections.abc import Mapping

from page_tables import Format, accuracy, brief, percent, short, whole

__all__ = ["PLAIN"]

PLAIN: Mapping[str, tuple[str, Mapping[str, tuple[str, Format]]]] = {  # section: results file, columns
    "ablation": ("ablation", {
        "variant": ("variant", str),
        "acc_pruned": ("pruned", accuracy),
        "acc_recovered": ("repaired", accuracy),
        "seconds": ("seconds", short),
    }),
    "language": ("language", {
        "method": ("method", str),
        "kept": ("parameters left", percent),
        "kept_embeddings": ("of embeddings", percent),
        "kept_layers": ("of layers", percent),
        "perplexity_dense": ("dense", short),
        "perplexity": ("perplexity", short),
        "bytes_zip": ("zipped bytes", str),
    }),
    "effnet": ("effnet", {
        "method": ("method", str),
        "recovery": ("recovery", str),
        "budget": ("asked for", percent),
        "macs_ratio": ("MACs left", percent),
        "latency_ratio": ("time", short),
        "zero_shot_dense": ("dense", accuracy),
        "zero_shot": ("zero-shot accuracy", accuracy),
        "agreement": ("agreement", accuracy),
    }),
    "minilm": ("minilm", {
        "method": ("method", str),
        "recovery": ("recovery", str),
        "gallery": ("verses", str),
        "budget": ("asked for", percent),
        "macs_ratio": ("MACs left", percent),
        "latency_ratio": ("time", short),
        "recall_at_1_dense": ("R@1, dense", accuracy),
        "recall_at_1": ("R@1", accuracy),
        "mrr": ("MRR", accuracy),
    }),
    "decoder": ("decoder", {
        "method": ("method", str),
        "recovery": ("recovery", str),
        "blocks_ratio": ("blocks' parameters left", percent),
        "perplexity": ("perplexity", short),
        "perplexity_ratio": ("against dense", short),
        "tokens_per_second_dense": ("tokens/s, dense", whole),
        "tokens_per_second": ("tokens/s", whole),
        "seconds": ("planning and repair, s", whole),
        "peak_memory_gb": ("peak memory, GB", short),
    }),
    "large decoder": ("large_decoder", {
        "method": ("method", str),
        "parameters": ("parameters", str),
        "weights_gb": ("weights, GB", short),
        "params_ratio": ("parameters left", percent),
        "latency_ratio": ("time", short),
        "seconds_statistics_and_ranking": ("statistics and ranking, s", whole),
        "seconds_recovery": ("repair, s", whole),
        "seconds_surgery": ("surgery, s", whole),
        "peak_memory_gb": ("peak memory, GB", short),
    }),
    "strangers": ("strangers", {
        "network": ("network", str),
        "parameters": ("parameters", str),
        "macs_ratio": ("MACs left", percent),
        "pruned": ("pruned", brief),
        "loaded": ("loaded in a fresh process", brief),
        "pickled": ("pickled, copied", brief),
        "trained": ("trained", brief),
        "adapters": ("LoRA", brief),
        "other_size": ("another size", brief),
        "onnx": ("ONNX Runtime agrees", brief),
    }),
    "engines": ("engines", {
        "model": ("network", str),
        "budget": ("asked for", percent),
        "macs_ratio": ("MACs left", percent),
        "round_to": ("multiples of", str),
        "batch": ("batch", str),
        "torch_dense_ms": ("PyTorch, dense, ms", short),
        "torch_ratio": ("PyTorch, pruned / dense", short),
        "onnx_dense_ms": ("ONNX Runtime, dense, ms", short),
        "onnx_ratio": ("ONNX Runtime, pruned / dense", short),
    }),
    "latency": ("latency", {
        "model": ("network", str),
        "share": ("asked for", percent),
        "measured": ("measured", percent),
        "error": ("off by", percent),
        "dense_ms": ("dense, ms", short),
        "pruned_ms": ("pruned, ms", short),
        "macs_ratio": ("MACs left", percent),
    }),
    "cost": ("cost", {
        "method": ("method", str),
        "streams": ("streams", str),
        "forward": ("plain forward, s", short),
        "statistics": ("statistics, s", short),
        "ranking": ("ranking, s", short),
        "recovery": ("recovery, s", short),
        "surgery": ("surgery, s", short),
        "verification": ("verification, s", short),
        "ratio": ("statistics and solving / forward", short),
        "peak_mb": ("peak MB", short),
    }),
}  # fmt: skip
