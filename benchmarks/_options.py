"""Options that several of the commands take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ._workloads import WORKLOADS, Workload

UNPACED = tuple(name for name, workload in WORKLOADS.items() if workload.fps is None)
"""Workloads without a camera that sets the pace."""


def size_options(
    command: str, description: str | None, scale: str = "fraction of the frames"
) -> argparse.ArgumentParser:
    """Return a parser with what each command takes: how much is written, and where.

    Parameters
    ----------
    command : str
        What is called.
    description : str, optional
        What it does.
    scale : str
        What its option ``--scale`` means.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {command}", description=description)
    parser.add_argument("--scale", type=float, default=1.0, help=scale)
    parser.add_argument("--side", type=int, help="side of a frame in pixels, for a quick look")
    shm = Path("/dev/shm")  # noqa: S108  a file system in memory, if there is one
    parser.add_argument("--scratch", type=Path, default=shm if shm.is_dir() else Path.cwd(), help="where data goes")
    return parser


def add_turns(
    parser: argparse.ArgumentParser, turns: int, workloads: Sequence[str] = UNPACED, default: Sequence[str] = ()
) -> None:
    """Add what commands take that measure in turns: which workloads (all unless some are the default), how often."""
    parser.add_argument("--workload", nargs="+", choices=workloads, default=list(default or workloads))
    parser.add_argument("--turns", type=int, default=turns, help="of each; the table shows medians")


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Return what was given, checked."""
    args = parser.parse_args(argv)
    if not args.scratch.is_dir():
        parser.error(f"--scratch takes a folder that is there, not {args.scratch}")
    for option in ("turns", "runs"):
        if getattr(args, option, 1) < 1:
            parser.error(f"--{option} takes 1 or more")
    return args


def sized(name: str, args: argparse.Namespace) -> Workload:
    """Return a workload, as large as was asked for."""
    workload = WORKLOADS[name].scaled(args.scale)
    return workload.shrunk(args.side) if args.side else workload
