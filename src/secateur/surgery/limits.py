"""What the modules of a pruned model cannot do any more that those of the dense one could."""

from __future__ import annotations

from .plan import Plan, Retrace

__all__ = ["limits"]


def limits(plan: Plan) -> tuple[str, ...]:
    """Return in words what each module loses that runs traced calls in place of its own code; nothing for all others.

    >>> from .plan import Fingerprint
    >>> limits(Plan({}, (Retrace("att", "00", ()),), Fingerprint("Net", "00")))[0][:58]
    'att runs the calls of its code that were traced, with the '
    """
    return tuple(_said(edit.module or "the model") for edit in plan.edits if isinstance(edit, Retrace))


def _said(module: str) -> str:
    return (
        f"{module} runs the calls of its code that were traced, with the sizes that are left, for its code repeats "
        "sizes in a way that could not be rewritten. So it takes inputs of the example's size only (but for the batch, "
        "and lengths of sequences where the code leaves them); attributes that the code sets keep their old values; "
        "adapters, hooks and quantised layers inside are passed by; and the model cannot be pickled as a whole: "
        "save an artefact, or the state_dict."
    )
