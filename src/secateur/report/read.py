"""Read the report of an artefact: whatever the files hold, the outcome is a report or one clear error."""

from __future__ import annotations

import json
from os import PathLike

from pydantic import BaseModel, ConfigDict, ValidationError

from secateur.artefact.files import parse_json, parse_yaml
from secateur.artefact.load import document
from secateur.artefact.manifest import RECIPE, REPORT
from secateur.ground.errors import ArtefactError

from .report import Report

__all__ = ["read_report", "report_from_json"]

MAX_STRING = 10_000


class _File(BaseModel):
    """A report as it comes from JSON; the dataclasses in it inherit this configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    report: Report


def read_report(path: str | PathLike[str]) -> Report:
    """Return the report of an artefact with its recipe; the model is not touched.

    Raises:
        ArtefactError: a file is missing, truncated, hostile or of another version; the message names the entry.
    """
    recipe = parse_yaml(document(path, RECIPE), RECIPE)
    return report_from_json(parse_json(document(path, REPORT), REPORT), recipe)


def report_from_json(data: object, recipe: object = None) -> Report:
    """Return a report from the content of report.json, checked entry by entry, and of recipe.yaml.

    Raises:
        ArtefactError: an entry is missing, unknown, of the wrong kind or out of range.
    """
    if not isinstance(data, dict):
        raise _error("it must hold a mapping")
    if recipe is not None and not isinstance(recipe, dict):
        raise _error("it must hold a mapping", RECIPE)
    _check(data, REPORT)
    _check(recipe, RECIPE)
    given = {name: value for name, value in data.items() if name != "ratios"}  # they follow from the rest
    if "recipe" in given:
        raise _error("unknown entry 'recipe'")
    given["recipe"] = recipe or {}
    try:
        # In JSON mode, where lists may stand for tuples but "1" not for 1.
        report = _File.model_validate_json(json.dumps({"report": given})).report
    except (TypeError, ValueError) as error:
        raise _error(_first(error)) from None
    _check_sense(report)
    return report


def _check(data: object, name: str) -> None:
    """Refuse values that no report has and that no page should have to show."""
    if isinstance(data, dict):
        for key, value in data.items():
            _check(key, name)
            _check(value, name)
    elif isinstance(data, list):
        for value in data:
            _check(value, name)
    elif isinstance(data, str):
        if len(data) > MAX_STRING:
            raise _error(f"a text of {len(data)} characters, {data[:30]!r}...", name)
        if any("\ud800" <= c <= "\udfff" for c in data):
            raise _error(f"{data[:30]!a} is not Unicode text", name)
    elif isinstance(data, int | float) and not abs(data) < 2**63:  # "not": NaN compares with nothing
        raise _error("a number beyond all measure", name)


def _check_sense(report: Report) -> None:
    counts = [n for s in (report.before, report.after) for n in (s.params, s.macs, s.bytes)]
    if min(counts) < 0:
        raise _error("a negative number of parameters, MACs or bytes")
    if report.sparsity:
        s = report.sparsity
        if not 0 <= s.after <= s.before or min(s.zip_before, s.zip_after) < 0:
            raise _error("sparsity: more connections than before, or a negative number")
    for group, (kept, size) in report.kept.items():
        if not 0 <= kept <= size or size == 0:
            raise _error(f"kept: {group!r:.60} keeps {kept} of {size} units")
    for group, curve in report.curves.items():
        if len(curve.units) != len(curve.loss) or not curve.units:
            raise _error(f"curves: {group!r:.60} has {len(curve.units)} units and {len(curve.loss)} losses")
        if list(curve.units) != sorted(set(curve.units)) or curve.units[0] < 0 or min(curve.loss) < 0:
            raise _error(f"curves: {group!r:.60} must ascend from zero or more")
    if any(s < 0 for s in report.seconds.values()):
        raise _error("seconds: a phase took less than none")
    if report.latency:
        t = report.latency
        times = (t.dense.median_ms, t.dense.low_ms, t.pruned.median_ms, t.pruned.low_ms, t.ratio, t.ratio_low)
        if min(times) < 0 or t.dense.median_ms <= 0 or t.batch < 1:
            raise _error("latency: times and the batch must be positive")


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    entry = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in entry["loc"][1:])
    return f"{place:.80}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _error(what: str, name: str = REPORT) -> ArtefactError:
    return ArtefactError(
        f"{name}: {what}. It was changed, or written by another version of secateur: "
        "update secateur, or make the artefact again."
    )
