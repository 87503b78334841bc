"""What a run starts from, beside the model: masks of an earlier run, weights to rewind to. Checked before training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from secateur.ground.errors import TrainingError

from .masks import Masks

__all__ = ["check_rewind", "start_masks"]


def start_masks(model: nn.Module, masks: Masks | None) -> Masks:
    """Return a mask for each parameter: those given, the others whole.

    Raises:
        TrainingError: a mask has no parameter, or another shape.
    """
    full = Masks.full(model)
    for name, mask in (masks or {}).items():
        if name not in full:
            raise TrainingError(f"The masks are of another model: this one has no parameter {name!r}.")
        if mask.shape != full[name].shape:
            raise TrainingError(
                f"The masks are of another model: that of {name!r} has shape {tuple(mask.shape)}, the parameter "
                f"{tuple(full[name].shape)}."
            )
    return full if masks is None else full & masks


def check_rewind(model: nn.Module, rewind: Mapping[str, Tensor] | None) -> None:
    """Refuse weights of another model.

    Raises:
        TrainingError: a name or a shape differs.
    """
    state = model.state_dict()
    for name in sorted(set(state) ^ set(rewind)) if rewind is not None else ():
        raise TrainingError(f"The weights to rewind to are of another model: only one of them has {name!r}.")
    for name, tensor in (rewind or {}).items():
        if tensor.shape != state[name].shape:
            raise TrainingError(
                f"The weights to rewind to are of another model: {name!r} has shape {tuple(tensor.shape)}, not "
                f"{tuple(state[name].shape)}."
            )
