# SPDX-License-Identifier: Apache-2.0
"""Results of the compiled core that are more than a number; the core makes them itself.

Named tuples, because a trace may have a million of them.
"""

from typing import NamedTuple


class RoutingVisit(NamedTuple):
    """The experts that one layer needed in one pass.

    Attributes:
        pass_index: of the passes over all layers, counted from 0 since the model was opened.
        layer: from 0.
        experts: ascending.
    """

    pass_index: int
    layer: int
    experts: list[int]


class Span(NamedTuple):
    """What one thread of a lane did for a while.

    Attributes:
        lane: "compute", "stall", "demand" or "prefetch".
        name: what was done.
        thread: of the lane, from 0.
        layer: -1 where it belongs to none.
        begin_ns, end_ns: nanoseconds since the model was opened.
    """

    lane: str
    name: str
    thread: int
    layer: int
    begin_ns: int
    end_ns: int


class Registration(NamedTuple):
    """What io_uring has registered.

    Attributes:
        file: whether the file of experts is.
        frames: memory of so many tiles.
        problem: why not more, "" where nothing is missing.
    """

    file: bool
    frames: int
    problem: str


class PredictionScore(NamedTuple):
    """How well a layer's experts were foreseen.

    Attributes:
        right: experts that were predicted and needed.
        needed: experts that were needed.
    """

    right: int
    needed: int


class ExpertPaths(NamedTuple):
    """Ways to compute experts on this device.

    Attributes:
        names: the exact one first.
        without_engines: why the engines of the pack are not among them, "" where it has none or
            they are.
    """

    names: list[str]
    without_engines: str


class ReplayCounts(NamedTuple):
    """What a replay of recorded routing found.

    Attributes:
        visits: experts needed.
        hits: of them, found resident.
    """

    visits: int
    hits: int
