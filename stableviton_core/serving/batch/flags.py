"""The flags of the command `batch`; apart from what they start, for every command parses them."""

import argparse
from pathlib import Path

from .jobs import ROLES


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--graph", type=Path, required=True, help="a graph in the API format")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    what = parser.add_argument_group("what to make: listed pairs, or persons in all garments")
    what.add_argument("--pairs", type=Path, help="CSV: person,garment[,mask,densepose,seed]")
    what.add_argument("--persons", type=Path, help="folder of pictures")
    what.add_argument("--garments", type=Path, help="folder of pictures")
    what.add_argument("--masks", type=Path, help="folder: the persons' masks, by name")
    what.add_argument("--denseposes", type=Path, help="folder: the persons' DensePoses, by name")
    what.add_argument("--seed", type=int, default=0, help="of pairs without one of their own")
    where = parser.add_argument_group("where: servers that run, or that are started")
    where.add_argument("--server", action="append", default=[], help="URL; as often as wanted")
    where.add_argument("--start-servers", type=int, default=0, metavar="N")
    where.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="a Ray cluster")
    where.add_argument("--ray-actors", type=int, help="servers on the cluster; one a GPU if left")
    where.add_argument("--comfyui", type=Path, help="the folder with its main.py, to start servers")
    graph = parser.add_argument_group("the graph's nodes")
    graph.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE")
    for role in (*ROLES, "result"):
        graph.add_argument(f"--{role}-node", metavar="TITLE", help="title or id, if another")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one pair")
    parser.add_argument(
        "--contact-sheet", action="store_true", help="also a picture of all results"
    )
