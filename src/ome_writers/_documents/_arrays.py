"""The documents of arrays, whose shape follows the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ome_writers._dataset import DatasetFolder
from ome_writers._router import Router
from ome_writers.abc import FramesLostError, WritePlan
from ome_writers.errors import NotRecoverableError
from ome_writers.metadata import with_shape


class ArrayDocuments:
    """The ``zarr.json`` of the arrays, whose shape follows the data while an unbounded acquisition grows.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    plan : WritePlan
        Its arrays.
    extents : sequence of int, optional
        What stands on disk, along the unbounded axis, of each array; None: nothing.
    """

    def __init__(self, folder: DatasetFolder, plan: WritePlan, extents: Sequence[int] | None = None) -> None:
        self._folder = folder
        self._plan = plan
        self.shape = tuple(n or 0 for n in plan.geometry.shape)
        self._extents = list(extents or [0] * len(plan.layout.images))

    def grow(self, extents: Mapping[int, int]) -> None:
        """Write the documents of arrays that have grown along the unbounded axis."""
        for array, extent in extents.items():
            if extent > self._extents[array]:
                self._write(array, extent)

    def finish(self, router: Router, frames: int) -> None:
        """Write the documents of all arrays with the extent that they have in the end; every one is tried.

        Raises
        ------
        FramesLostError
            If some can't be written; names the frames beyond the extent that stands on disk.
        """
        axis = self._plan.geometry.unbounded_axis
        wanted = [0 if axis is None else router.extent(array, frames) for array in range(len(self._extents))]
        errors: dict[int, OSError] = {}
        for array, extent in enumerate(wanted):
            try:
                self._write(array, extent)
            except OSError as error:
                errors[array] = error
        if axis is not None:
            self.shape = (*self.shape[:axis], max(wanted), *self.shape[axis + 1 :])
        if not errors:
            return
        # what lies beyond the extent that stands on disk can't be read; without a document nothing can
        readable = {array: 0 if axis is None else self._extents[array] for array in errors}
        readable |= {array: 0 for array in errors if not self._stands(array)}
        lost: list[int] = []
        for number in range(frames):
            array, index = router.locate(number)
            if array in errors and (axis is None or index[axis] >= readable[array]):
                lost.append(number)
        first = next(iter(errors.values()))
        raise FramesLostError(f"the shape of an array can't be written to its zarr.json: {first}", lost) from first

    def _stands(self, array: int) -> bool:
        """Tell whether the document of an array is there."""
        return (self._folder.root / self._plan.layout.images[array].array_path / "zarr.json").is_file()

    def _write(self, array: int, extent: int) -> None:
        shape = [extent if n is None else n for n in self._plan.geometry.shape]
        path = self._plan.layout.images[array].array_path
        document = with_shape(self._plan.array_document, shape)
        if not self._folder.holds(path, document):
            self._folder.write(path, document)
        self._extents[array] = extent


def extents_on_disk(folder: DatasetFolder, plan: WritePlan) -> list[int] | None:
    """Return the extent of each array along the unbounded axis, as its ``zarr.json`` says; None when all are bounded.

    Raises
    ------
    NotRecoverableError
        If a document is not there or is damaged.
    """
    axis = plan.geometry.unbounded_axis
    if axis is None:
        return None
    try:
        return [int(folder.document(image.array_path)["shape"][axis]) for image in plan.layout.images]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise NotRecoverableError(f"a zarr.json of {folder.root} is not there or damaged: {error!r}") from error
