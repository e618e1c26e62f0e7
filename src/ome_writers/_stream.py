"""Streams: where settings, engine, backend and metadata meet."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  see _close_abandoned_streams
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version as _distribution_version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from ._dataset import DatasetFolder, encode
from ._layout import plan_layout
from ._router import Router
from .abc import BlockSink, FrameSink, FramesLostError, LayerSink, Sink, WritePlan
from .backends import load_backend
from .engine import (
    RECORDS_FILE,
    RECORDS_PER_IMAGE,
    BatchAssembly,
    BlockAssembly,
    BufferPool,
    Engine,
    LayerAssembly,
    RecordLog,
    StreamStats,
    Workers,
    plan_memory,
)
from .errors import DestinationExistsError, MetadataError, OMEWritersError, UnknownGroupError, WriteError
from .metadata import Plane, array_document, group_document, hierarchy, ome_xml, reserved_namespaces, with_shape
from .settings import AcquisitionSettings

__version__: Final = _distribution_version("ome-writers")

_RECORDS_GROUP: Final = RECORDS_FILE.partition("/")[0]
_OME_XML: Final = "OME/METADATA.ome.xml"
_PLANE_KEYS: Final = ("delta_t", "exposure_time", "position_x", "position_y", "position_z")


class OMEStream:
    """A dataset that is being written, frame by frame; made by :func:`create_stream`.

    Use it as a context manager, or call :meth:`close`. One thread at a time may call its methods.
    """

    def __init__(
        self,
        settings: AcquisitionSettings,
        folder: DatasetFolder,
        groups: frozenset[str],
        plan: WritePlan,
        sink_class: type[Sink],
    ) -> None:
        memory = plan_memory(sink_class, plan, settings.buffer)
        self._settings = settings
        self._folder = folder
        self._groups = groups
        self._layout = plan.layout
        self._router = Router(plan.layout.axes)
        self._sink = sink_class(plan)
        self._records = RecordLog(plan.root / RECORDS_FILE, [image.path for image in plan.layout.images])
        assembly: BlockAssembly | LayerAssembly | BatchAssembly
        if isinstance(self._sink, LayerSink):
            assembly = LayerAssembly(self._sink, plan.geometry, self._router)
        elif isinstance(self._sink, BlockSink):
            assembly = BlockAssembly(self._sink, plan.geometry, self._router, memory.extent)
        else:
            assembly = BatchAssembly(cast("FrameSink", self._sink), plan.geometry, self._router, memory.extent[0])
        self._documents = _ArrayDocuments(folder, plan)
        self._engine = Engine(
            assembly=assembly,
            router=self._router,
            geometry=plan.geometry,
            array_paths=[image.array_path for image in plan.layout.images],
            pool=BufferPool(memory.buffer_bytes, memory.buffers, settings.buffer, ready=memory.ready),
            workers=Workers(memory.workers),
            records=self._records,
            on_growth=self._documents.grow,
        )
        self._caller: int | None = None  # the thread that has appended
        _close_at_exit(self)

    # ---- frames ----------------------------------------------------------------------------------------------------

    def append(self, frame: Any, *, frame_metadata: Mapping[str, Any] | None = None) -> None:
        """Append the next frame in acquisition order.

        The frame is copied before this returns: the caller may overwrite it at once. It is written in the background.

        Parameters
        ----------
        frame : array_like, shape (height, width)
            Pixels, in any memory order and byte order, of a dtype whose every value the stream's dtype can hold.
        frame_metadata : mapping, optional
            What is known of this frame; anything that JSON can hold. Keys with a meaning: ``delta_t`` (s since the
            start), ``exposure_time`` (s), ``position_x``, ``position_y``, ``position_z`` (um).

        Raises
        ------
        FrameError
            If the frame does not fit the settings (also a ValueError).
        MetadataError
            If the metadata can't be written as JSON (also a ValueError).
        FrameCountError
            If the settings declare no more frames (also an IndexError).
        BufferFullError
            If the buffer is full, and the settings say not to wait, or not that long (also a TimeoutError).
        WriteError
            If an earlier frame could not be written (also an OSError); names the frames that are not on disk.
        StreamClosedError
            If the stream is closed (also a RuntimeError).

        Notes
        -----
        After any of the first four the stream is as it was: the next frame lands where this one would have.
        """
        self._caller = threading.get_ident()
        self._engine.append(frame, frame_metadata)

    def skip(self, *, frames: int = 1) -> None:
        """Leave out the next frames in acquisition order; they read as 0.

        Parameters
        ----------
        frames : int
            How many, 1 or more.

        Raises
        ------
        SettingsError
            If ``frames`` is less than 1 (also a ValueError).
        FrameCountError
            If the settings declare fewer frames (also an IndexError); none is skipped.
        WriteError, StreamClosedError
            As for :meth:`append`.
        """
        self._engine.skip(frames)

    def flush(self) -> None:
        """Wait until every block that is complete is written, and so are the records of all frames so far.

        Raises
        ------
        WriteError, StreamClosedError
            As for :meth:`append`.
        """
        self._engine.flush()
        try:
            self._records.drain()
        except OSError as error:
            raise WriteError(
                f"the records of frames can't be written: {error}; they are kept for the next try"
            ) from error

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        return self._engine.closed

    @property
    def stats(self) -> StreamStats:
        """What has been done so far: frames, bytes, memory, time stalled."""
        return self._engine.stats()

    @property
    def settings(self) -> AcquisitionSettings:
        """A copy of the settings of this stream."""
        return self._settings.model_copy(deep=True)

    @property
    def path(self) -> Path:
        """The dataset's folder."""
        return self._folder.root

    def close(self) -> None:
        """Write what is left, complete the metadata and release everything; does nothing when already closed.

        Raises
        ------
        WriteError
            If something could not be written, now or earlier (also an OSError); names the frames that are not on
            disk. Everything is released all the same.
        """
        self._engine.close(
            (
                self._sink.close,
                lambda: self._documents.finish(self._router, self._engine.frames),
                self._write_frame_metadata,
                self._write_ome_xml,
            )
        )
        _open_streams.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OMEWritersError as at_close:
            if error is None:
                raise
            # the error on its way out is the first one that the caller should see; close may know of more lost frames
            error.add_note(f"while closing: {at_close}")
            if isinstance(error, WriteError) and isinstance(at_close, WriteError):
                error.frames = at_close.frames

    def __del__(self) -> None:
        if "_engine" not in self.__dict__ or self._engine.closed:
            return
        try:
            if self._engine.appended:
                warnings.warn(
                    f"a stream to {self._folder.root} was dropped without close(); it is closed now, and errors are "
                    "lost. Call close(), or use the stream in a with statement.",
                    UserWarning,
                    stacklevel=2,
                    source=self,
                )
        finally:  # warnings may be errors
            self.close()

    # ---- metadata --------------------------------------------------------------------------------------------------

    def get_metadata(self) -> dict[str, dict[str, Any]]:
        """Return the attributes of every image group by its path (``"."`` for a single image at the root).

        What is returned is a copy; hand it to :meth:`update_metadata` to make changes last.
        """
        return {path: self._folder.attributes(path) for path in self._image_groups()}

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the attributes of groups; allowed at any time, also after :meth:`close`.

        Parameters
        ----------
        metadata : mapping
            Path of a group, as in :meth:`get_metadata`, to its new attributes.

        Raises
        ------
        UnknownGroupError
            If a path is no group of this dataset (also a KeyError).
        MetadataError
            If attributes can't be written as JSON (also a ValueError). Nothing is changed after either error.
        """
        for path, attributes in metadata.items():
            if path not in self._groups:
                raise UnknownGroupError(
                    f"there is no group {path!r} in this dataset; its groups are {', '.join(sorted(self._groups)[:20])}"
                )
            if not isinstance(attributes, Mapping):
                raise MetadataError(f"the attributes of group {path!r} must be a mapping, not {attributes!r:.100}")
            _check_json(attributes, f"the attributes of group {path!r}")
        for path, attributes in metadata.items():
            self._folder.set_attributes(path, attributes)

    def set_global_metadata(self, namespace: str, metadata: Mapping[str, Any]) -> None:
        """Set one attribute of the root group; allowed at any time, also after :meth:`close`.

        Parameters
        ----------
        namespace : str
            Name of the attribute; ``ome`` and ``ome_writers`` are reserved.
        metadata : mapping
            Its value; anything that JSON can hold.

        Raises
        ------
        MetadataError
            If the name is empty or reserved, or the value can't be written as JSON (also a ValueError).
        """
        if not isinstance(namespace, str) or not namespace.strip() or namespace in reserved_namespaces:
            raise MetadataError(
                f"namespace {namespace!r} is not allowed; give a name that is not empty and none of "
                f"{', '.join(sorted(reserved_namespaces))}"
            )
        if not isinstance(metadata, Mapping):
            raise MetadataError(f"the metadata must be a mapping, not {type(metadata).__name__}")
        _check_json(metadata, f"the metadata of namespace {namespace!r}")
        self._folder.set_attributes(".", {**self._folder.attributes("."), namespace: dict(metadata)})

    def _image_groups(self) -> list[str]:
        return [image.path or "." for image in self._layout.images]

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _write_frame_metadata(self) -> None:
        for array in self._records.arrays():
            path = self._layout.images[array].path or "."
            records = [{**r["metadata"], "storage_index": r["storage_index"]} for r in self._records.of_array(array)]
            attributes = self._folder.attributes(path)
            ours = attributes.get("ome_writers")
            ours = {**(ours if isinstance(ours, dict) else {}), "version": __version__, "frame_metadata": records}
            if len(records) == RECORDS_PER_IMAGE:
                ours["frame_metadata_file"] = RECORDS_FILE
            self._folder.set_attributes(path, {**attributes, "ome_writers": ours})

    def _write_ome_xml(self) -> None:
        shape = self._documents.shape
        text = ome_xml(self._settings, self._layout, self._planes(), counts=shape)
        if text is not None:
            self._folder.write_text(_OME_XML, text)

    def _planes(self) -> Iterator[Plane]:
        left = RECORDS_PER_IMAGE
        for array in self._records.arrays():
            for record in self._records.of_array(array):
                values = {key: _number(record["metadata"].get(key)) for key in _PLANE_KEYS}
                if left and any(value is not None for value in values.values()):
                    left -= 1
                    yield Plane(array, tuple(record["storage_index"]), **values)


class _ArrayDocuments:
    """The ``zarr.json`` of the arrays, whose shape follows the data while an unbounded acquisition grows."""

    def __init__(self, folder: DatasetFolder, plan: WritePlan) -> None:
        self._folder = folder
        self._plan = plan
        self.shape = tuple(n or 0 for n in plan.geometry.shape)
        self._extents = [0] * len(plan.layout.images)  # along the unbounded axis, on disk

    def grow(self, extents: Mapping[int, int]) -> None:
        """Write the documents of arrays that have grown along the unbounded axis."""
        for array, extent in extents.items():
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
        errors = []
        for array, extent in enumerate(wanted):
            try:
                self._write(array, extent)
            except OSError as error:
                errors.append(error)
        if axis is not None:
            self.shape = (*self.shape[:axis], max(wanted), *self.shape[axis + 1 :])
        if errors and axis is None:
            raise errors[0]
        if errors and axis is not None:
            places = ((number, *router.locate(number)) for number in range(frames))
            lost = [number for number, array, index in places if index[axis] >= self._extents[array]]
            raise FramesLostError(f"the shape of an array can't be written to its zarr.json: {errors[0]}", lost)

    def _write(self, array: int, extent: int) -> None:
        shape = [extent if n is None else n for n in self._plan.geometry.shape]
        path = self._plan.layout.images[array].array_path
        document = with_shape(self._plan.array_document, shape)
        if not self._folder.holds(path, document):
            self._folder.write(path, document)
        self._extents[array] = extent


def create_stream(settings: AcquisitionSettings) -> OMEStream:
    """Make a dataset, complete and valid but for its frames, and return the stream that writes them.

    Parameters
    ----------
    settings : AcquisitionSettings
        What is acquired and how it is stored; copied, so later changes have no effect.

    Returns
    -------
    OMEStream
        The open stream.

    Raises
    ------
    SettingsError
        If root path, dimensions or dtype are missing (also a ValueError).
    BackendMissingError
        If the backend's library is not installed (also an ImportError); names the command that installs it.
    UnsupportedError
        If the backend can't do what the settings ask for (also a NotImplementedError).
    BufferTooSmallError
        If this acquisition order needs more memory than ``settings.buffer.max_bytes`` (also a ValueError).
    DestinationExistsError
        If something stands at the output path and may not be replaced (also a FileExistsError).
    WriteError
        If the dataset can't be made (also an OSError).
    """
    settings = settings.model_copy(deep=True)
    settings.validate_stream_ready()
    sink_class = load_backend(settings.format.backend)
    layout = plan_layout(settings)
    if sink_class.capabilities.always_sharded and layout.geometry.shards is None:
        layout = replace(layout, geometry=replace(layout.geometry, shards=layout.geometry.chunks))
    folder = DatasetFolder(_absolute(settings.output_path))
    plan = WritePlan(folder.root, layout, settings.codec, array_document(layout.geometry, settings.codec))
    sink_class.check(plan)
    plan_memory(sink_class, plan, settings.buffer)
    if any(stream.path == folder.root and not stream.closed for stream in list(_open_streams)):
        raise DestinationExistsError(f"{folder.root} is being written by another stream; close that one first")
    folder.check(overwrite=settings.overwrite)
    groups = {path: group_document(attrs) for path, attrs in hierarchy(settings, layout, version=__version__).items()}
    arrays = {image.array_path: plan.array_document for image in layout.images}
    try:
        folder.create({**groups, _RECORDS_GROUP: group_document({})}, arrays)
        text = ome_xml(settings, layout, counts=tuple(n or 0 for n in layout.geometry.shape))
        if text is not None:
            folder.write_text(_OME_XML, text)
        stream = OMEStream(settings, folder, frozenset(groups), plan, sink_class)
    except BaseException as error:
        folder.undo()
        if isinstance(error, OSError) and not isinstance(error, OMEWritersError):
            raise folder.not_made(error) from error
        raise
    folder.commit()
    return stream


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # a name that begins with "~" and is no user's
        return Path(path).absolute()


def _check_json(value: Mapping[str, Any], what: str) -> None:
    try:
        encode(value).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise MetadataError(f"{what} can't be written as JSON: {error}. Nothing was changed.") from error


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


_open_streams: weakref.WeakSet[OMEStream] = weakref.WeakSet()


def _close_at_exit(stream: OMEStream) -> None:
    """Have the stream closed when the interpreter ends, if nobody else does it."""
    _open_streams.add(stream)
    # last in, first out: before the library that it writes with, which may be newly imported, ends its own threads
    atexit.unregister(_close_open_streams)
    atexit.register(_close_open_streams)


def _close_open_streams() -> None:
    """Write what streams still hold; each is closed, whatever becomes of the others."""
    _close_all(list(_open_streams))


def _close_abandoned_streams() -> None:
    """Write what streams hold that no running thread appends to any more.

    Called when the main thread ends. The threads of ``concurrent.futures``, which zarr-python writes with, still work
    then, and no longer when functions registered with ``atexit`` are called. Other threads may still run then, too.
    """
    running = {thread.ident for thread in threading.enumerate()} - {threading.main_thread().ident}
    _close_all([stream for stream in _open_streams if stream._caller not in {None, *running}])  # noqa: SLF001


def _close_all(streams: list[OMEStream]) -> None:
    with ExitStack() as every_one:
        for stream in streams:
            every_one.callback(stream.close)


# Functions registered here are called last in, first out: this one before that of concurrent.futures, imported above.
# Python has had it since 3.9 for such uses, without documenting it; without it, streams are closed later.
getattr(threading, "_register_atexit", atexit.register)(_close_abandoned_streams)
