# SPDX-License-Identifier: Apache-2.0
"""Results of the compiled core that are more than a number; the core creates them itself.

They are named tuples because a trace may have a million of them.
"""

from typing import NamedTuple


class RoutingVisit(NamedTuple):
    """The experts that one layer needed in one pass.

    Attributes:
        pass_index: number of the pass over all layers, from 0 since the model was opened.
        layer: from 0.
        experts: ascending.
    """

    pass_index: int
    layer: int
    experts: list[int]


class Span(NamedTuple):
    """What one thread did from one moment to another.

    Attributes:
        lane: "compute", "stall", "demand" or "prefetch".
        name: what it did.
        thread: number of the thread in its lane, from 0.
        layer: -1 if it belongs to no layer.
        begin_ns, end_ns: nanoseconds since the model was opened.
    """

    lane: str
    name: str
    thread: int
    layer: int
    begin_ns: int
    end_ns: int


class Registration(NamedTuple):
    """What is registered with io_uring.

    Attributes:
        file: whether the file of experts is registered.
        frames: how many frames are.
        problem: why not everything is; "" if everything is.
    """

    file: bool
    frames: int
    problem: str


class PredictionScore(NamedTuple):
    """How well a layer's experts were predicted.

    Attributes:
        right: experts that were predicted and needed.
        needed: experts that were needed.
    """

    right: int
    needed: int


class ExpertPaths(NamedTuple):
    """The ways to compute experts on this device.

    Attributes:
        names: the exact one first.
        without_engines: why the pack's engines are not among them; "" if they are, or it has none.
    """

    names: list[str]
    without_engines: str


class ReplayCounts(NamedTuple):
    """What a replay of recorded routing found.

    Attributes:
        visits: experts needed.
        hits: how many of them were resident.
    """

    visits: int
    hits: int
