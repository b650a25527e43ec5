"""GPUs by name and from a file; collectives of known volume."""

import pytest

from megatron_dream.errors import ConfigError
from megatron_dream.planning.communication import Group
from megatron_dream.planning.efficiency import Efficiency
from megatron_dream.planning.hardware import GPUS, find_gpu

FILE = """
peak_bf16_tflops: 400
memory_gib: 96
memory_gb_s: 4000
nvlink_gb_s: 300
network_gb_s: 40
gpus_per_node: 4
"""


@pytest.mark.parametrize(
    "name", ["H100", "h100", "H100-SXM", "h100_pcie", "A100-80", "b200", "H200"]
)
def test_names(name):
    assert find_gpu(name) in GPUS.values()


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(ConfigError, match="the nearest one is H200"):
        find_gpu("H20")


def test_a_file_of_own_numbers(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    gpu = find_gpu(str(path))
    assert (gpu.name, gpu.gpus_per_node, gpu.peak_fp8_tflops) == ("mine", 4, 0)
    assert gpu.matmul_flops("bf16") == pytest.approx(400e12 * 0.8)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("memory_gib: 0", "memory_gib must be above 0"),
        ("memory_gb_s: -1", "memory_gb_s must be above 0"),
        ("matmul_share_bf16: 80", "a share of the peak"),
        ("peak_bf16: 1", "peak_bf16_tflops"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, change, match):
    path = tmp_path / "mine.yaml"
    name = change.split(":")[0]
    kept = [line for line in FILE.splitlines() if not line.startswith(f"{name}:")]
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(ConfigError, match=match):
        find_gpu(str(path))


def test_a_ring_moves_what_a_ring_moves():
    """All-gather of S bytes among n: (n - 1) / n S over each link; all-reduce twice that."""
    exact = Efficiency(nvlink=1.0, network=1.0, nvlink_latency=0.0, network_latency=0.0)
    gpu = GPUS["H100"]
    inside = Group(4, 1, 8)
    assert inside.gather_seconds(450e9, gpu, exact) == pytest.approx(0.75)
    assert inside.reduce_seconds(450e9, gpu, exact) == pytest.approx(1.5)
    assert Group(1, 1, 8).reduce_seconds(450e9, gpu, exact) == 0.0


@pytest.mark.parametrize(
    ("size", "stride", "adapters"), [(16, 1, 8), (16, 2, 4), (16, 4, 2), (16, 8, 1), (4, 64, 1)]
)
def test_between_nodes_a_group_has_the_adapters_of_its_members(size, stride, adapters):
    exact = Efficiency(nvlink=1.0, network=1.0)
    group = Group(size, stride, size * stride)
    assert not group.is_inside_node(GPUS["H100"])
    assert group.bandwidth(GPUS["H100"], exact) == pytest.approx(adapters * 50e9)


@pytest.mark.parametrize(
    ("size", "stride", "world", "fewest"),
    [
        (3, 1, 6, 3),  # all on one node
        (3, 1, 24, 1),  # ranks 6, 7 | 8
        (2, 3, 12, 1),  # ranks 6 and 9
        (2, 3, 6, 2),
        (4, 2, 16, 4),
        (12, 1, 24, 4),  # 8 | 4
        (6, 1, 48, 2),  # ranks 6, 7 | 8 to 11
        (5, 16, 80, 1),
    ],
)
def test_a_group_that_does_not_divide_a_node_straddles_two(size, stride, world, fewest):
    """Against every group, written out."""
    starts = [
        block * size * stride + offset
        for block in range(world // (size * stride))
        for offset in range(stride)
    ]
    nodes = [[(first + index * stride) // 8 for index in range(size)] for first in starts]
    assert min(ranks.count(node) for ranks in nodes for node in ranks) == fewest
    group = Group(size, stride, world)
    assert group.per_node(GPUS["H100"]) == fewest
    assert group.is_inside_node(GPUS["H100"]) == all(len(set(ranks)) == 1 for ranks in nodes)
