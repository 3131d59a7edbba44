"""What hypothesis tries out."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@st.composite
def value_tables(draw: st.DrawFn, *, max_players: int = 6, max_metrics: int = 2) -> np.ndarray:
    """Values of every coalition: (2^n_players, n_metrics)."""
    n_players = draw(st.integers(1, max_players))
    n_metrics = draw(st.integers(1, max_metrics))
    return draw(st_numpy.arrays(np.float64, (2**n_players, n_metrics), elements=NUMBERS))


def storable_values() -> st.SearchStrategy[object]:
    """What a checkpoint must be able to hold, nested."""
    dtypes = st.sampled_from([np.bool_, np.int64, np.float32, np.float64, np.uint8, np.complex128])
    arrays = dtypes.flatmap(
        lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, min_side=0))
    )
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | arrays
        | arrays.map(np.asfortranarray)
        | st.floats().map(np.float64)
        | st.integers(0, 2**64 - 1).map(np.uint64)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        ),
        max_leaves=12,
    )
