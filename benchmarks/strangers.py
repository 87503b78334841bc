"""Take networks of strangers through all that one does with a network: python benchmarks/strangers.py

They and the stations are those of tests/helpers (stranger_networks.py, stations.py). Rows are appended to
results/strangers.csv; those that are there are skipped: delete a row to try its network again. Those of `diffusers`
are tried where it is installed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from stations import STATIONS, Pruned, go_through, loaded_in_a_fresh_process, pruned, said
from stranger_networks import STRANGERS, Stranger

from secateur.ground.errors import SecateurError

TABLE = Table(
    Path("results/strangers.csv"),
    ("network",),
    ("network", "parameters", "macs_ratio", "pruned", "loaded", *STATIONS, "commit", "torch", "command"),
)
COMMAND = "python benchmarks/strangers.py"


def attempt(stranger: Stranger) -> Pruned | str:
    """Prune a network, or say why not."""
    try:
        return pruned(stranger)
    except SecateurError as error:
        return f"refused: {said(error)}"
    except Exception as error:  # whatever is raised is the result
        return f"no: {said(error)}"


def row(stranger: Stranger, network: Pruned | str, loaded: str) -> dict[str, object]:
    """Return what is known of a network."""
    found: dict[str, object] = {
        "network": stranger.name,
        "parameters": sum(p.numel() for p in stranger.model().parameters()),
    }
    if isinstance(network, str):
        return found | {"pruned": network}
    report = network.result.report
    answers = {station: go_through(station, network) for station in STATIONS}
    ratio = report.after.macs / report.before.macs
    return found | {"macs_ratio": ratio, "pruned": "yes", "loaded": loaded} | answers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[s.name for s in STRANGERS], help="networks")
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    table = Table(options.output, TABLE.keys, TABLE.columns)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wanted = [s for s in STRANGERS if s.name in options.only and (s.name,) not in table.present()]
    networks = {s.name: attempt(s) for s in wanted}
    loaded = loaded_in_a_fresh_process(n for n in networks.values() if isinstance(n, Pruned))
    for stranger in wanted:
        found = row(stranger, networks[stranger.name], loaded.get(stranger.name, ""))
        table.append(found | table.provenance(COMMAND))
        print(*found.values(), flush=True)


if __name__ == "__main__":
    main()
