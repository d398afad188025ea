# Generated from ../_async/test_buffers.py by tools/generate_sync.py: edit that file, not this one.

"""Values in buffers of any layout arrive as `bytes(view)`, by a command, in a pipeline and through the SPEC client."""

from __future__ import annotations

import numpy as np
import pytest

TABLE = np.arange(12, dtype=np.uint8).reshape(3, 4)
VIEWS = {
    "step": memoryview(b"abcdef")[::2],
    "reversed": memoryview(b"abcdef" * 20)[::-1],
    "bytearray": bytearray(b"abc"),
    "column": memoryview(TABLE[:, 1]),
    "transposed": memoryview(TABLE.T),
    "wider elements": memoryview(np.arange(4, dtype=np.float32)[::2]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_value_is_the_bytes_of_its_view(valkey, connect, name):
    client = connect(valkey)
    view = VIEWS[name]
    client.set("key", view)
    assert client.get("key") == bytes(view)
    client.set("key", "")
    pipeline = client.pipeline().set("key", view).get("key")
    assert pipeline.execute()[1] == bytes(view)
    pipeline = client.pipeline(transaction=False).append("key", view).strlen("key")
    assert pipeline.execute()[1] == 2 * len(bytes(view))
