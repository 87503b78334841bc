"""From a selection to a smaller model: plan, apply, verify."""

from .apply import apply
from .edits import edits
from .fit import fingerprint
from .fold import fold_weights
from .mask import mask
from .plan import (
    Edit,
    Fingerprint,
    Function,
    InputLevels,
    Literal,
    Plan,
    QuantiseLayer,
    RemoveBranch,
    Resize,
    Retrace,
    RewriteCode,
    SetAttribute,
    SliceTensor,
)
from .plan_json import plan_from_json, plan_to_json
from .planning import make_plan
from .quantised import QuantisedConv2d, QuantisedLinear
from .reparameterize import reparameterize
from .traced import limits
from .trial import Editable, editable, removable
from .verify import Verification, verify

__all__ = [
    "Edit",
    "Editable",
    "Fingerprint",
    "Function",
    "InputLevels",
    "Literal",
    "Plan",
    "QuantiseLayer",
    "QuantisedConv2d",
    "QuantisedLinear",
    "RemoveBranch",
    "Resize",
    "Retrace",
    "RewriteCode",
    "SetAttribute",
    "SliceTensor",
    "Verification",
    "apply",
    "editable",
    "edits",
    "fingerprint",
    "fold_weights",
    "limits",
    "make_plan",
    "mask",
    "plan_from_json",
    "plan_to_json",
    "removable",
    "reparameterize",
    "verify",
]
