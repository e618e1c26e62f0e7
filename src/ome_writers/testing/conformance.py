"""What every backend must do, as test suites to be subclassed.

Derive a class from :class:`LayerSinkConformance`, :class:`BlockSinkConformance` or :class:`FrameSinkConformance`, give
it the ``sink_class`` to be tested, and let pytest collect it::

    class TestMySink(BlockSinkConformance):
        sink_class = MySink

What is written is read back with tensorstore and zarr-python, and the files themselves are checked.
"""

from .block_conformance import BlockSinkConformance
from .frame_conformance import FrameSinkConformance
from .layer_conformance import LayerSinkConformance

__all__ = ["BlockSinkConformance", "FrameSinkConformance", "LayerSinkConformance"]
