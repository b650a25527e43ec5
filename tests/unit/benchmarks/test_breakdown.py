"""A step's time by part, from traces made by hand, and from one that torch recorded on a CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import record_function

from benchmarks.gpu_kit.breakdown import break_down
from benchmarks.gpu_kit.kernels import PARTS
from benchmarks.gpu_kit.measure import read_trace

PRODUCT = "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT"
FLASH = "void pytorch_flash::flash_fwd_kernel<128>"
NCCL = "ncclDevKernel_AllGather_RING_LL"


def host(name, start, duration, tid=1, cat="user_annotation"):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration, "tid": tid}


def kernel(name, start, duration, launched=None, tid=1, cat="kernel"):
    """A kernel and its launch, ``launched`` on thread ``tid``."""
    number = f"{name}{start}{tid}"
    launch = start if launched is None else launched
    args = {"correlation": number}
    return [
        {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration, "tid": 7, "args": args},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": launch, "dur": 1, "tid": tid,
         "args": args},
    ]  # fmt: skip


def microseconds(events):
    found = break_down(events)
    assert sum(found.seconds.values()) == pytest.approx(found.window)
    return {part: round(value * 1e6, 3) for part, value in found.seconds.items() if value > 1e-12}


def test_parts_gaps_and_waits_for_data():
    events = [host("kit.step", 0, 100), host("kit.data", 50, 20)]
    events += kernel(PRODUCT, 10, 30) + kernel(FLASH, 40, 15) + kernel(PRODUCT, 75, 20)
    # 55 to 70 is a wait; 0 to 10, 70 to 75 and 95 to 100 are gaps.
    assert microseconds(events) == {"products": 50, "attention": 15, "data": 15, "gaps": 20}


def test_communication_counts_where_it_is_not_hidden():
    events = [host("kit.step", 0, 100), *kernel(PRODUCT, 0, 60), *kernel(NCCL, 40, 60)]
    found = break_down(events)
    assert found.seconds["communication"] == pytest.approx(40e-6)
    assert found.seconds["products"] == pytest.approx(60e-6)
    assert found.hidden_communication == pytest.approx(20e-6)


def test_a_kernel_belongs_to_where_it_was_launched():
    """The head's product has a layer's name; it runs later than its launch, on the device's own time."""
    events = [host("kit.step", 0, 200), host("kit.head", 10, 10), host("kit.optimizer", 30, 10)]
    events += kernel(PRODUCT, 50, 20, launched=12)
    events += kernel("vectorized_elementwise_kernel", 70, 30, launched=35)
    events += kernel(NCCL, 100, 10, launched=36)  # a collective of the optimizer stays one
    events += kernel(PRODUCT, 110, 90, launched=25)
    assert microseconds(events) == {
        "head": 20,
        "optimizer": 30,
        "communication": 10,
        "products": 90,
        "gaps": 50,
    }


def test_the_heads_backward_pass_is_told_by_its_node():
    node = "autograd::engine::evaluate_function: _MaskedCrossEntropyBackward"
    events = [host("kit.step", 0, 100), host(node, 10, 50, tid=2, cat="cpu_op")]
    events += kernel("vectorized_elementwise_kernel", 40, 60, launched=20, tid=2)
    assert microseconds(events) == {"head": 60, "gaps": 40}


def test_the_window_ends_with_the_device():
    events = [host("kit.step", 0, 50), *kernel(PRODUCT, 40, 60)]
    assert break_down(events).window == pytest.approx(100e-6)


def test_what_lies_before_the_first_step_is_left_out():
    events = [host("kit.step", 100, 50), *kernel(PRODUCT, 0, 60), *kernel(PRODUCT, 90, 20)]
    assert microseconds(events) == {"products": 10, "gaps": 40}


def test_a_trace_without_steps_is_refused():
    with pytest.raises(ValueError, match="kit.step"):
        break_down(kernel(PRODUCT, 0, 10))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([PRODUCT, FLASH, NCCL, "Memcpy HtoD (Pinned -> Device)"]),
            st.integers(-20, 120),
            st.integers(0, 60),
        ),
        max_size=12,
    ),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 20)), max_size=3),
)
def test_each_moment_has_one_owner(kernels, waits):
    """Whatever overlaps, parts add up to the window, and none is negative."""
    events = [host("kit.step", 0, 200)]
    for name, start, duration in kernels:
        events += kernel(name, start, duration)
    end = 0
    for start, duration in sorted(waits):
        if start >= end:
            events.append(host("kit.data", start, duration))
            end = start + duration
    found = break_down(events)
    assert sum(found.seconds.values()) == pytest.approx(found.window)
    assert all(value >= 0 for value in found.seconds.values())


def test_the_cpus_operators_as_torch_records_them():
    """Attention, products and the marked head of a small computation; all of the window is told."""
    left, right = torch.randn(256, 256), torch.randn(256, 256, requires_grad=True)
    query = torch.randn(1, 2, 128, 64, requires_grad=True)

    def step():
        with record_function("kit.step"):
            attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
            made = left @ right
            with record_function("kit.head"):
                loss = (made @ left).sum() + attended.sum()
            loss.backward()
            with record_function("kit.optimizer"):
                right.grad.mul_(0.5)

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    found = break_down(read_trace(profiler))
    assert sum(found.seconds.values()) == pytest.approx(found.window, rel=1e-6)
    assert set(found.seconds) == set(PARTS)
    for part in ("attention", "products", "head", "optimizer"):
        assert found.seconds[part] > 0, part
    assert found.seconds["products"] > found.seconds["optimizer"]
