"""Collectives are found in every form that XLA writes, and counted as often as they run."""

import numpy as np
import pytest

from nouscoder_jax.planning import hlo

MODULE = """HloModule m, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  {line}
}}
"""


def only(line: str) -> hlo.Collective:
    (found,) = hlo.find_collectives(MODULE.format(line=line))
    return found


def test_a_gather_counts_what_it_yields():
    found = only("%g = bf16[8,4]{1,0} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}")
    assert (found.kind, found.dtype, found.bytes, len(found.group)) == ("all-gather", "bf16", 64, 8)
    assert found.wire_bytes == 64 * 7 / 8


def test_a_scatter_counts_what_it_takes():
    found = only("%s = f32[4]{0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add")
    assert (found.bytes, found.group, found.wire_bytes) == (2 * 16, (0, 1), 16)


def test_an_all_reduce_sends_its_bytes_nearly_twice():
    found = only("%r = f32[4]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add")
    assert (found.bytes, found.wire_bytes) == (16, 16 * 3 / 4 * 2)


def test_start_and_done_are_one():
    start = "%s = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}"
    assert only(f"{start}\n  %d = f32[32]{{0}} all-gather-done(%s)").bytes == 128


def test_a_started_scatter_counts_its_operands():
    line = (
        "%s = ((f32[16,4]{1,0}), f32[1,4]{1,0}) reduce-scatter-start(%x), replica_groups=[1,16]<=[16], dimensions={0}"
    )
    assert only(line).bytes == 16 * 4 * 4


def test_a_gather_of_several_arrays_is_one_with_all_their_bytes():
    line = (
        "%s = ((f32[1,4]{1,0}, bf16[2]{0}), (f32[8,4]{1,0}, bf16[16]{0})) all-gather-start(%x, %x), "
        "replica_groups=[1,8]<=[8], dimensions={0}"
    )
    found = only(line)
    assert (found.bytes, found.largest_bytes, found.dtype) == (128 + 32, 128, "f32")


def test_a_permute_knows_its_pair():
    line = "%p = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}"
    assert (only(line).bytes, only(line).group) == (16, (0, 1))


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,4},{1,5}}", (0, 4)),
        ("[4,2]<=[8]", (0, 1)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=1,'c'=4] {'c'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=1,'c'=4] {'a'}", (0, 4)),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4)),
        ("{}", tuple(range(8))),
    ],
)
def test_groups_are_read_in_every_form(groups, first):
    assert only(f"%r = f32[4]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add").group == first


def compiled_text(function, *shapes, mesh_size=8):
    import jax
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((mesh_size,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.jit(mapped).lower(*arguments).compile().as_text()


def gather_and_sum(x, weight):
    import jax

    return x + jax.lax.all_gather(weight * x[0], "d", axis=0, tiled=True)


def test_a_gather_in_a_scan_counts_as_often_as_the_scan_turns():
    import jax

    def function(x, weights):
        return jax.lax.scan(lambda x, weight: (gather_and_sum(x, weight), None), x, weights)[0]

    found = hlo.find_collectives(compiled_text(function, ((16,), np.float32), ((5, 2), np.float32)))
    assert [(one.kind, one.count, one.bytes, one.in_open_loop) for one in found] == [("all-gather", 5, 64, False)]


def test_scans_in_scans_multiply():
    import jax

    def function(x, weights):
        def outer(x, _):
            return jax.lax.scan(lambda x, weight: (gather_and_sum(x, weight), None), x, weights)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    found = hlo.find_collectives(compiled_text(function, ((16,), np.float32), ((5, 2), np.float32)))
    assert sum(one.count for one in found) == 15


def test_a_loop_of_unknown_length_counts_once_and_is_marked():
    import jax

    def function(x, weight, turns):
        return jax.lax.fori_loop(0, turns, lambda _, x: gather_and_sum(x, weight), x)

    shapes = (((16,), np.float32), ((2,), np.float32), ((), np.int32))
    (found,) = hlo.find_collectives(compiled_text(function, *shapes))
    assert (found.count, found.in_open_loop) == (1, True)


def test_the_table_adds_up_each_kind_and_tells_what_a_micro_batch_adds():
    gather = hlo.Collective(
        kind="all-gather", dtype="bf16", bytes=100, largest_bytes=60, group=(0, 1), count=4, in_open_loop=True
    )
    reduce = hlo.Collective(
        kind="all-reduce", dtype="f32", bytes=8, largest_bytes=8, group=(0, 2, 4), count=1, in_open_loop=False
    )
    table = hlo.by_kind([gather, reduce, gather])
    assert table["all-gather"] == {
        "count": 8, "bytes": 800, "count_per_micro_batch": 8, "bytes_per_micro_batch": 800, "largest_bytes": 60,
        "largest_dtype": "bf16", "group_sizes": [2],
    }  # fmt: skip
    assert (table["all-reduce"]["count"], table["all-reduce"]["count_per_micro_batch"]) == (1, 0)
    assert hlo.largest_all_reduce([gather, reduce]) is reduce


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.find_collectives("nothing")
