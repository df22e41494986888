# SPDX-License-Identifier: Apache-2.0
"""What the user chooses about a pack."""

from dataclasses import dataclass

from adapmoe_export.errors import ExportError

DTYPES = ("int4", "int8", "f16", "f32")
GROUP_SIZES = (32, 64, 128)
FLOAT_GROUP_SIZE = 16  # what the format writes as the group size of f16 and f32


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export. Raises ExportError for a value outside the lists."""

    experts: str = "int4"  # dtype of the expert matrices
    dense: str = "int8"  # dtype of every other matrix but the router, which stays f32
    group_size: int = 32  # weights per scale, for int4 and int8
    tile_width: int | None = None  # columns of intermediate_size per tile; None: chosen
    overwrite: bool = False
    fresh: bool = False  # do not go on where an interrupted export stopped
    threads: int = 0  # 0: one per core. The bytes do not depend on it

    def __post_init__(self) -> None:
        """Refuse what the format does not have."""
        for name, dtype in (("experts", self.experts), ("dense", self.dense)):
            if dtype not in DTYPES:
                raise ExportError(f"{name}: unknown dtype {dtype!r}, choose {', '.join(DTYPES)}")
        if self.group_size not in GROUP_SIZES:
            raise ExportError(f"group size {self.group_size}: choose 32, 64 or 128")
        if self.threads < 0:
            raise ExportError(f"threads {self.threads}: give 0 (one per core) or more")

    def group_size_of(self, dtype: str) -> int:
        """Group size of a matrix in `dtype`, as the pack records it."""
        return self.group_size if dtype in ("int4", "int8") else FLOAT_GROUP_SIZE
