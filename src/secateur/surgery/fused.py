"""Containers of torch that read the tensors of modules inside past their forward."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

__all__ = ["unfuse"]


def unfuse(model: nn.Module, modules: Collection[str]) -> None:
    """Make torch's encoder layers call the attention inside of them, where one of `modules` has a new forward.

    In evaluation ``nn.TransformerEncoderLayer`` hands its attention's tensors to one native call instead, which takes
    the stream's width for that of all heads; ``nn.TransformerEncoder`` packs padded samples for that call. Nothing
    else reads the two flags by which they are told not to.
    """
    for path, container in model.named_modules():
        if any(module.startswith(f"{path}." if path else "") and module != path for module in modules):
            match container:
                case nn.TransformerEncoderLayer():
                    container.activation_relu_or_gelu = 0
                case nn.TransformerEncoder():
                    container.use_nested_tensor = False
