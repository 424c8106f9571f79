"""A file of codes, or its shards, of which only what a search needs is read: the codes, and the ids that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stochcon.codes import file as codes
from stochcon.codes.file import Codes
from stochcon.codes.packed import mean_flips


class Stored:
    """Of a million codes, reading all ids would take ten times as long as finding the nearest of one.

    Everything raises ValueError as `codes.read` does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "codes.parquet"
    >>> codes.write(Codes.pack([[True, False], [True, True], [False, True]], ["cat", "dog", "fox"]), path)
    3
    >>> stored = Stored(path)
    >>> stored.find(["fox", "wolf"]), stored.ids([1, 0]), stored.rows([2]).unpack().tolist()
    ({'fox': 2}, ['dog', 'cat'], [[False, True]])
    """

    def __init__(self, path: Path | str):
        self.path, self.files = Path(path), codes.files(path)
        self.groups, sizes = list[tuple[Path, int]](), list[int]()
        flips, model = list[NDArray[np.float64]](), None
        for file in self.files:
            with codes.opened(file) as (parquet, about):
                codes.same_model(file, about["model"], model or about["model"])
                footer = parquet.metadata
                self.groups += [(file, g) for g in range(footer.num_row_groups)]
                sizes += [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
                flips.append(footer.num_rows * np.array(about["flips"]))
                self.about, model = about, about["model"]
        self.starts = np.cumsum([0, *sizes])
        self.flips = mean_flips(np.sum(flips, axis=0), len(self))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(bits / 8)), all of them."""
        none = np.empty((0, -(-self.about["bits"] // 8)), np.uint8)
        columns = (self._column(group, "code") for group in range(len(self.groups)))
        return np.concatenate([none, *map(codes.packed_rows, columns)])

    @cached_property
    def all(self) -> Codes:
        """Every code, under no id, and as if certain."""
        return self._codes(self.packed, np.broadcast_to(np.array("", object), len(self)))

    def rows(self, rows: Sequence[int]) -> Codes:
        """The codes of a few rows, under their ids."""
        raw = b"".join(self._take("code", rows))
        packed = np.frombuffer(raw, np.uint8).reshape(len(rows), -(-self.about["bits"] // 8))
        return self._codes(packed, np.array([*self.ids(rows), None], object)[:-1])

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of a few rows."""
        return self._take("id", rows)

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """The row of each id that the file has; the first, if it has several."""
        wanted, found = {*ids}, dict[str, int]()
        for group, start in enumerate(self.starts[:-1].tolist()):
            if not wanted:
                break
            # the footer's least and greatest id would save reading, but they have no checksum
            column = self._column(group, "id")
            hits = np.flatnonzero(pc.is_in(column, pa.array(wanted, pa.string())))
            for row, name in zip(hits.tolist(), column.take(hits).to_pylist(), strict=True):
                found.setdefault(name, start + row)
            wanted -= found.keys()
        return found

    def _take(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Values of a column, of which only the row groups with these rows are read."""
        where = np.asarray(rows, np.int64)
        groups = np.searchsorted(self.starts, where, "right") - 1
        values = np.empty(len(where), object)
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            values[here] = self._column(group, name).take(where[here] - self.starts[group]).to_pylist()
        return values.tolist()

    def _column(self, group: int, name: str) -> pa.ChunkedArray:
        file, number = self.groups[group]
        with codes.opened(file) as (parquet, _):
            column = parquet.read_row_group(number, [name])[name]
            column.validate(full=True)
        if len(column) != self.starts[group + 1] - self.starts[group]:
            raise ValueError(f"{file} is damaged: its columns are not of one length")
        return column

    def _codes(self, packed: NDArray[np.uint8], ids: NDArray[np.object_]) -> Codes:
        about, certain = self.about, np.broadcast_to(np.float32(0), len(packed))
        try:
            return Codes(packed, about["bits"], ids, certain, self.flips, about["model"], about["latent"])
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
