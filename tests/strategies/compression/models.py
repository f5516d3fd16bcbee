"""Changes to be encoded, and what every codec has in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.compression.codec import Codec, Encoded, Row, Seeds, Shapes, size_of

SEEDS = Seeds(3, 4)
SHAPES: Shapes = {
    "bias": (10,),
    "empty": (0, 4),
    "long": (70_001,),
    "matrix": (300, 257),
    "one": (1,),
    "scalar": (),
    "taps": (16, 8, 3, 3),
}


def change(shapes: Shapes = SHAPES, scale: float = 1e-3, seed: int = 0) -> Row:
    """Return a change as training makes one: most values are small."""
    drawn = np.random.default_rng(seed).standard_normal(size_of(shapes))
    return (scale * drawn**3).astype(np.float32)


def encoded(codec: Codec, row: Row, shapes: Shapes = SHAPES, **given: Any) -> Encoded:
    """Return a change encoded, with what a wire makes of types checked."""
    made = codec.encode(row.copy(), shapes, given.get("seeds", SEEDS), given.get("memory", {}))
    layout = codec.layout(shapes)
    assert list(made.arrays) == list(layout)
    for name, (dtype, shape) in layout.items():
        found = made.arrays[name]
        assert found.shape == shape and found.flags.c_contiguous
        assert str(found.dtype) == ("uint16" if dtype == "bfloat16" else dtype)
    return made


def decoded(codec: Codec, arrays: Any, shapes: Shapes = SHAPES, shared: int = SEEDS.shared) -> Row:
    """Return a change decoded, as one row."""
    parts: list[NDArray[np.float32]] = []
    for (name, part), (wanted, shape) in zip(
        codec.decode(arrays, shapes, shared), shapes.items(), strict=True
    ):
        assert name == wanted and part.dtype == np.float32 and part.flags.writeable
        assert part.shape == (int(np.prod(shape, dtype=int)),)
        parts.append(part)
    return np.concatenate(parts)


def there_and_back(codec: Codec, row: Row, shapes: Shapes = SHAPES, **given: Any) -> Row:
    """Return what the server makes of a change."""
    return decoded(codec, encoded(codec, row, shapes, **given).arrays, shapes)
