"""The mean of several checkpoints of stage `all`, in the public format.

`python average.py FOLDER A.pt B.pt ...` writes FOLDER/all.pt and exports FOLDER/checkpoint. The end of one long stage, stopped at
different rates and begun again, leaves weights scattered around a better place than any of them: their mean answers more than each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import train
from export import export


def mean(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Tensor by tensor; what is not a floating-point number is alike in all."""
    networks = [torch.load(path)["network"] for path in paths]
    first = networks[0]
    sums = {name: sum(network[name].double() for network in networks) for name in first}
    return {name: (total / len(networks)).to(first[name].dtype) for name, total in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    network = train.start_network(train.Plan(arguments.work), "language")
    network.load_state_dict(mean(arguments.checkpoints))
    trained = arguments.work / "all.pt"
    torch.save({"network": network.state_dict()}, trained)
    export(network, arguments.work / "tokenizer.model", arguments.work / "checkpoint")


if __name__ == "__main__":
    main()
