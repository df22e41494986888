# SPDX-License-Identifier: Apache-2.0
"""The routing plan lists the decisions by expert, and loses none of them."""

from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing


@st.composite
def batches(draw):
    """(decisions, num_experts, top_k); gating may have left fewer than top_k experts."""
    num_experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, num_experts))
    experts = st.sets(st.integers(0, num_experts - 1), min_size=1, max_size=top_k).map(sorted)
    decisions = []
    for chosen in draw(st.lists(experts, max_size=20)):
        decisions.append((chosen, [0.25 + 0.5 * i for i in range(len(chosen))]))
    return decisions, num_experts, top_k


@given(batch=batches())
def test_every_decision_is_in_the_plan_once(batch):
    decisions, num_experts, top_k = batch
    plan = _testing.plan_routing(decisions, num_experts, top_k)

    used = sorted({e for experts, _ in decisions for e in experts})
    assert plan["experts"] == used
    assert plan["found"] == list(range(len(used)))
    for expert, rows in zip(used, plan["rows"], strict=True):
        assert rows == [row for row, (experts, _) in enumerate(decisions) if expert in experts]

    starts = [sum(len(rows) for rows in plan["rows"][:i]) for i in range(len(used))]
    assert plan["first_output"] == starts
    assert plan["activations"] == sum(len(experts) for experts, _ in decisions)

    # Where expert e writes for token row r: its first output row plus r's place among its rows.
    assert len(plan["outputs"]) == len(plan["weights"]) == len(decisions) * top_k
    for row, (experts, weights) in enumerate(decisions):
        places = [
            start + rows.index(row)
            for expert, rows, start in zip(used, plan["rows"], starts, strict=True)
            if expert in experts
        ]
        unused = top_k - len(experts)
        assert plan["outputs"][row * top_k : (row + 1) * top_k] == places + [-1] * unused
        assert plan["weights"][row * top_k : (row + 1) * top_k] == weights + [0] * unused


def test_golden_plan():
    plan = _testing.plan_routing([([1, 3], [0.75, 0.25]), ([3], [1.0]), ([0, 1], [0.5, 0.5])], 4, 2)
    assert plan == {
        "experts": [0, 1, 3],
        "rows": [[2], [0, 2], [0, 1]],
        "first_output": [0, 1, 3],
        "outputs": [1, 3, 4, -1, 0, 2],
        "weights": [0.75, 0.25, 1.0, 0.0, 0.5, 0.5],
        "activations": 5,
        "found": [0, 1, 2],
    }
