"""Streams: where settings, engine, backend and metadata meet."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from . import _files, _running
from ._begin import RECORDS_GROUP, OpenDataset, begin, prepare, reopen
from ._dataset import WRITING_FOLDER, encode
from ._documents import (
    ArrayDocuments,
    Completeness,
    with_statements_of,
    write_frame_metadata,
    write_ome_xml,
)
from ._router import Router
from .abc import BlockSink, FrameSink, LayerSink
from .engine import (
    FATES_FILE,
    RECORDS_FILE,
    BatchAssembly,
    BlockAssembly,
    BufferPool,
    Engine,
    FrameFates,
    LayerAssembly,
    RecordLog,
    StreamStats,
    Workers,
    plan_memory,
)
from .errors import (
    DatasetInUseError,
    MetadataError,
    OMEWritersError,
    UnknownGroupError,
    WriteError,
)
from .metadata import reserved_namespaces
from .settings import AcquisitionSettings


class OMEStream:
    """A dataset that is being written, frame by frame; made by :func:`create_stream`.

    Use it as a context manager, or call :meth:`close`. One thread at a time may call its methods.
    """

    def __init__(self, dataset: OpenDataset) -> None:
        settings, plan, earlier = dataset.settings, dataset.plan, dataset.earlier
        memory = plan_memory(dataset.sink_class, plan, settings.buffer)
        self._settings = settings
        self._folder = dataset.folder
        self._lock = dataset.lock
        self._earlier = earlier
        self._groups = dataset.groups
        self._layout = plan.layout
        self._router = Router(plan.layout.axes)
        self._sink = dataset.sink_class(plan)
        self._records = RecordLog(plan.root / RECORDS_FILE, [image.path for image in plan.layout.images])
        self._records.take_over(plan.first_frame)
        self._fates = FrameFates(
            plan.root / FATES_FILE,
            b"" if earlier is None else earlier.fates.tobytes(),
            0 if earlier is None else earlier.rewritten,
        )
        assembly: BlockAssembly | LayerAssembly | BatchAssembly
        if isinstance(self._sink, LayerSink):
            assembly = LayerAssembly(self._sink, plan.geometry, self._router)
        elif isinstance(self._sink, BlockSink):
            assembly = BlockAssembly(self._sink, plan.geometry, self._router, memory.extent)
        else:
            assembly = BatchAssembly(cast("FrameSink", self._sink), plan.geometry, self._router, memory.extent[0])
        self._documents = ArrayDocuments(dataset.folder, plan, None if earlier is None else earlier.extents)
        self._begun_shape = self._documents.shape if earlier is None else None
        own = isinstance(self._sink, LayerSink)  # no library with threads of its own writes
        # several small layers are one task, so that the tasks that wait do not tell how much does
        backlog = memory.backlog if own and assembly.group == 1 else None
        self._workers = workers = Workers(memory.workers, batch=own, backlog=backlog)
        try:
            pool = BufferPool(
                memory.buffer_bytes, memory.buffers, settings.buffer, ready=memory.ready, ahead=memory.ahead
            )
            pool.head_start()
            self._engine = Engine(
                assembly=assembly,
                router=self._router,
                geometry=plan.geometry,
                array_paths=[image.array_path for image in plan.layout.images],
                pool=pool,
                workers=workers,
                records=self._records,
                fates=self._fates,
                on_growth=self._documents.grow,
                sync=self._sync if plan.durable else None,
            )
            if earlier is not None:
                self._engine.resume(plan.first_frame, earlier.fates)
        except BaseException:
            workers.abandon()
            self._fates.close()
            with suppress(Exception):  # what has gone wrong before is what matters
                self._sink.close()
            raise
        self._caller: int | None = None  # the thread that has appended
        self._close_after_call = False
        _running.add(self)

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
        self._call(self._engine.append, frame, frame_metadata)

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
        self._call(self._engine.skip, frames)

    def flush(self) -> None:
        """Wait until every block that is complete is written, and so are the records of all frames so far.

        Raises
        ------
        WriteError, StreamClosedError
            As for :meth:`append`.
        """
        self._call(self._engine.flush)

    def _call(self, action: Callable[..., None], *given: Any) -> None:
        """Carry out a call of the engine, then close if a signal handler has asked for it meanwhile."""
        try:
            action(*given)
        except BaseException as error:
            if self._close_after_call:
                self._close_after(error)
            raise
        if self._close_after_call:
            self.close()

    def _close_after(self, error: BaseException) -> None:
        """Close while an error is on its way out: the caller sees that; close may know of more frames that are lost."""
        try:
            self.close()
        except OMEWritersError as at_close:
            error.add_note(f"while closing: {at_close}")
            if isinstance(error, SystemExit):  # whose notes nobody sees
                warnings.warn(f"while closing: {at_close}", UserWarning, stacklevel=4, source=self)
            if isinstance(error, WriteError) and isinstance(at_close, WriteError):
                error.frames = at_close.frames

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the stream is closed, and others may write to the dataset."""
        return self._engine.closed and not self._lock.held

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

    @property
    def next_frame(self) -> int:
        """Number of the frame that the next :meth:`append` takes; of a stream that resumes, at first not 0."""
        return self._engine.frames

    def close(self) -> None:
        """Write what is left, complete the metadata and release everything; does nothing when already closed.

        Another thread that closes waits until that is done. After Ctrl-C the next call goes on where this one was. In a
        signal handler that has interrupted another call of this stream, it is done when that call ends.

        Raises
        ------
        WriteError
            If something could not be written, now or earlier (also an OSError); names the frames that are not on
            disk. Everything is released all the same.
        """
        if self._engine.is_in_call:  # a signal handler closes
            self._close_after_call = True
            return
        try:
            self._engine.close(
                (
                    self._sink.close,
                    lambda: self._documents.finish(self._router, self._engine.frames),
                    lambda: write_frame_metadata(self._folder, self._layout, self._records),
                    lambda: write_ome_xml(
                        self._folder,
                        self._settings,
                        self._layout,
                        self._records,
                        self._documents.shape,
                        stands=self._begun_shape,
                    ),
                    self._write_completeness,
                )
            )
        finally:
            if self._engine.closed:
                self._lock.release()
                _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._close_after(error)

    def __del__(self) -> None:
        if "_engine" not in self.__dict__:
            return
        if self._engine.closed:
            self._lock.release()  # Ctrl-C may have kept close from it
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
            # the garbage collector may come in any thread: one that writes, or a library's, would wait for itself
            if threading.current_thread() is threading.main_thread() or self._caller == threading.get_ident():
                self.close()
            else:
                _running.close_in_a_thread(self)

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
        WriteError
            If a document can't be replaced (also an OSError); it is as it was.
        StreamClosedError
            In a forked child: the stream is its parent's (also a RuntimeError).

        Notes
        -----
        What the dataset says of its own frames stays, whatever is given: its completeness, and the metadata of frames.
        Attributes that were read before :meth:`close` may be handed in after it.
        """
        for path, attributes in metadata.items():
            if path not in self._groups:
                raise UnknownGroupError(
                    f"there is no group {path!r} in this dataset; its groups are {', '.join(sorted(self._groups)[:20])}"
                )
            if not isinstance(attributes, Mapping):
                raise MetadataError(f"the attributes of group {path!r} must be a mapping, not {attributes!r:.100}")
            _check_json(attributes, f"the attributes of group {path!r}")
        self._call(self._engine.change, self._set_attributes, metadata)

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
        WriteError
            If the document can't be replaced (also an OSError); it is as it was.
        StreamClosedError
            In a forked child: the stream is its parent's (also a RuntimeError).
        """
        if not isinstance(namespace, str) or not namespace.strip() or namespace in reserved_namespaces:
            raise MetadataError(
                f"namespace {namespace!r} is not allowed; give a name that is not empty and none of "
                f"{', '.join(sorted(reserved_namespaces))}"
            )
        if not isinstance(metadata, Mapping):
            raise MetadataError(f"the metadata must be a mapping, not {type(metadata).__name__}")
        _check_json(metadata, f"the metadata of namespace {namespace!r}")
        self._call(self._engine.change, self._set_global_attribute, namespace, dict(metadata))

    def _set_attributes(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        for path, attributes in metadata.items():
            with _as_write_error(path):
                before = self._folder.attributes(path)
                self._folder.set_attributes(path, with_statements_of(before, attributes))

    def _set_global_attribute(self, name: str, value: Mapping[str, Any]) -> None:
        with _as_write_error("."):
            self._folder.set_attributes(".", {**self._folder.attributes("."), name: value})

    def _image_groups(self) -> list[str]:
        return [image.path or "." for image in self._layout.images]

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _disown(self) -> None:
        """Have nothing more to do with the dataset: in a forked child, it is the parent's."""
        self._engine.disown()

    def _sync(self) -> None:
        """Have everything that was written on the medium: first what the journal speaks of, then the journal."""
        self._records.sync()
        self._fates.sync()
        for folder in (RECORDS_GROUP, WRITING_FOLDER):
            _files.system.sync_folder(self._folder.root / folder)
        self._sink.sync()

    def _write_completeness(self) -> None:
        """Say in the dataset what it holds; last of all, so that it says so only if the rest stands."""
        lost = self._engine.lost
        closed = not self._engine.failed
        state = self._completeness(lost, closed=closed)
        state.write(self._folder)
        if closed and not state.frames_skipped:  # which were skipped has to be told
            (self._folder.root / FATES_FILE).unlink(missing_ok=True)

    def _completeness(self, lost: tuple[range, ...], *, closed: bool) -> Completeness:
        stats = self._engine.stats()
        earlier, skipped = 0, stats.frames_skipped
        if self._earlier is not None:
            earlier = self._earlier.appended
            skipped += self._earlier.skipped
        taken = self._engine.frames
        missing = sum(map(len, lost))
        appended = earlier + stats.frames_appended
        return Completeness(self._router.total, taken, appended - missing, skipped, lost, closed=closed)


def create_stream(settings: AcquisitionSettings, *, resume: bool = False) -> OMEStream:
    """Make a dataset, complete and valid but for its frames, and return the stream that writes them.

    Parameters
    ----------
    settings : AcquisitionSettings
        What is acquired and how it is stored; copied, so later changes have no effect.
    resume : bool
        Go on with the dataset that stands at the output path, if there is one: at the first frame that is not on disk
        (:attr:`OMEStream.next_frame`; with library backends at the first frame of the first block that is not). A
        dataset whose stream was not closed is completed first, as by :func:`recover`. The settings must say the same
        of the data as those that it was begun with; backend, buffer and durability may differ.

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
    DatasetInUseError
        If a living process writes to it (also a FileExistsError).
    ResumeError
        If the dataset was begun with other settings (also a ValueError); names what differs.
    NotRecoverableError
        If what stands there is no dataset that can be resumed (also a ValueError).
    WriteError
        If the dataset can't be made (also an OSError).
    """
    settings = settings.model_copy(deep=True)
    folder, sink_class = prepare(settings)
    if _running.writes_to(folder.root):
        raise DatasetInUseError(f"{folder.root} is being written by another stream of this process; close that first")
    going_on = resume and folder.root.exists()
    dataset = (reopen if going_on else begin)(settings, folder, sink_class)
    try:
        stream = OMEStream(dataset)
    except BaseException as error:
        dataset.give_up()
        if isinstance(error, OSError) and not isinstance(error, OMEWritersError):
            if going_on:
                raise WriteError(f"{folder.root} can't be resumed: {error}") from error
            raise folder.not_made(error) from error
        raise
    if not going_on:
        folder.commit()
    return stream


@contextmanager
def _as_write_error(path: str) -> Iterator[None]:
    """Raise an error of the file system as one of this package."""
    try:
        yield
    except OMEWritersError:
        raise
    except OSError as error:
        raise WriteError(f"the attributes of group {path!r} can't be written: {error}") from error


def _check_json(value: Mapping[str, Any], what: str) -> None:
    try:
        encode(value).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise MetadataError(f"{what} can't be written as JSON: {error}. Nothing was changed.") from error
