"""``ome-writers info``: what a dataset holds."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.tree import Tree

from ome_writers._info import Outline, describe

from ._options import READ_OPTIONS, Axes, ImageChoice, Offset, RawDtype, RawShape, image_of
from ._output import AsJson, Output, Quiet, hints_of_options


def info(
    path: Annotated[str, typer.Argument(help="A dataset, or a recording that can be replayed.", show_default=False)],
    as_json: AsJson = False,
    quiet: Quiet = False,
    count_bytes: Annotated[
        bool, typer.Option("--bytes/--no-bytes", help="Whether to add up the bytes of all files; slow for millions.")
    ] = True,
    axes: Axes = None,
    shape: RawShape = None,
    dtype: RawDtype = None,
    offset: Offset = 0,
    image: ImageChoice = None,
) -> None:
    """Show what a dataset holds: images, axes, chunks, codecs, channels, and how far it is complete.

    Reads OME-Zarr 0.5 and older, other Zarr groups and arrays, and all that replay reads. Images that differ in nothing
    but their place are shown once; --json lists all. Ends with status 1 when documents are damaged.

    For example:

        ome-writers info cells.ome.zarr
        ome-writers info cells.ome.zarr --json
    """
    with hints_of_options(READ_OPTIONS, path):
        found = describe(
            path, count_bytes=count_bytes, axes=axes, shape=shape, dtype=dtype, offset=offset, image=image_of(image)
        )
    Output(as_json, quiet).result(found.as_dict(), _tree(found.outline()))
    if found.problems:
        raise typer.Exit(1)


def _tree(outline: Outline) -> Tree:
    tree = Tree(outline.text, guide_style="dim")
    for part in outline.parts:
        tree.children.append(_tree(part))
    return tree
