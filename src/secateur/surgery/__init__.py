"""From a selection to a smaller model: plan, apply, verify."""

from .apply import apply
from .edits import edits
from .fingerprint import fingerprint
from .fold import fold_weights
from .mask import mask
from .plan import Edit, Fingerprint, Plan, RemoveBranch, Resize, Retrace, SetAttribute, SliceTensor
from .plan_json import plan_from_json, plan_to_json
from .planning import make_plan
from .reparameterize import reparameterize
from .trial import Editable, editable, removable
from .verify import Verification, verify

__all__ = [
    "Edit",
    "Editable",
    "Fingerprint",
    "Plan",
    "RemoveBranch",
    "Resize",
    "Retrace",
    "SetAttribute",
    "SliceTensor",
    "Verification",
    "apply",
    "editable",
    "edits",
    "fingerprint",
    "fold_weights",
    "make_plan",
    "mask",
    "plan_from_json",
    "plan_to_json",
    "removable",
    "reparameterize",
    "verify",
]
