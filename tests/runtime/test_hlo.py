"""Pieces of optimised programs as XLA prints them, with what they move and send counted by hand."""

import pytest
from jax.sharding import AbstractMesh

from gvgap_jax.runtime.collectives import axis_of, collectives, parsed_groups
from gvgap_jax.runtime.compiled import precision
from gvgap_jax.runtime.hlo import arrays, parsed, schedule, trips
from gvgap_jax.runtime.traffic import moved, started

LOOPS = """HloModule loops, is_scheduled=true

%sliced (param_0: f32[10,1024], param_1: s32[], param_2: f32[1024]) -> f32[1024] {
  %param_0 = f32[10,1024]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[1,1024]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,1024}
  %bitcast.1 = f32[1024]{0} bitcast(%dynamic-slice.1)
  %param_2 = f32[1024]{0} parameter(2)
  ROOT %add.1 = f32[1024]{0} add(%bitcast.1, %param_2)
}

%updated (param_0.1: f32[10,1024], param_1.1: s32[], param_2.1: f32[1024]) -> f32[10,1024] {
  %param_0.1 = f32[10,1024]{1,0} parameter(0)
  %param_2.1 = f32[1024]{0} parameter(2)
  %row = f32[1,1024]{1,0} bitcast(%param_2.1)
  %param_1.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %dynamic-update-slice.1 = f32[10,1024]{1,0} dynamic-update-slice(%param_0.1, %row, %param_1.1, %zero.1)
}

%body (state: (s32[], f32[1024], f32[10,1024], f32[10,1024])) -> (s32[], f32[1024], f32[10,1024], f32[10,1024]) {
  %state = (s32[], f32[1024]{0}, f32[10,1024]{1,0}, /*index=3*/f32[10,1024]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %carry = f32[1024]{0} get-tuple-element(%state), index=1
  %rows = f32[10,1024]{1,0} get-tuple-element(%state), index=2
  %made = f32[10,1024]{1,0} get-tuple-element(%state), index=3
  %one = s32[] constant(1)
  %next = s32[] add(%count, %one)
  %fusion.1 = f32[1024]{0} fusion(%rows, %count, %carry), kind=kLoop, calls=%sliced
  %fusion.2 = f32[10,1024]{1,0} fusion(%made, %count, %fusion.1), kind=kLoop, calls=%updated
  ROOT %tuple.1 = (s32[], f32[1024]{0}, f32[10,1024]{1,0}, f32[10,1024]{1,0}) tuple(%next, %fusion.1, %rows, %fusion.2)
}

%below_ten (state.1: (s32[], f32[1024], f32[10,1024], f32[10,1024])) -> pred[] {
  %state.1 = (s32[], f32[1024]{0}, f32[10,1024]{1,0}, f32[10,1024]{1,0}) parameter(0)
  %count.1 = s32[] get-tuple-element(%state.1), index=0
  %ten = s32[] constant(10)
  ROOT %lt = pred[] compare(%count.1, %ten), direction=LT
}

ENTRY %main (x: f32[1024], rows.1: f32[10,1024]) -> f32[10,1024] {
  %x = f32[1024]{0} parameter(0)
  %rows.1 = f32[10,1024]{1,0} parameter(1)
  %start = s32[] constant(2)
  %tuple.2 = (s32[], f32[1024]{0}, f32[10,1024]{1,0}, f32[10,1024]{1,0}) tuple(%start, %x, %rows.1, %rows.1)
  %while.1 = (s32[], f32[1024], f32[10,1024], f32[10,1024]) while(%tuple.2), condition=%below_ten, body=%body
  ROOT %out = f32[10,1024]{1,0} get-tuple-element(%while.1), index=3
}
"""
ROW = 4 * 1024


def test_a_loop_moves_the_rows_that_it_slices_and_updates_as_often_as_it_turns():
    program = parsed(LOOPS)
    scalars = 4 + 4 + 1 + 4 + 4 + 4  # compared: two numbers and the answer; added: two numbers and the sum
    turn = scalars + (3 * ROW + 4) + (2 * ROW + 4)
    assert moved(program) == 8 * turn
    assert started(program) == 8 * 4  # two fusions, an addition and a comparison


@pytest.mark.parametrize(
    ("old", "new", "turns"),
    [
        ("constant(2)", "constant(0)", 10),
        ("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}', 7),
        ("direction=LT", "direction=NE", None),
        ("%ten = s32[] constant(10)", "%ten = s32[] get-tuple-element(%state.1), index=0", 0),
        ("%ten = s32[] constant(10)", "%ten = s32[] negate(%count.1)", None),
        ("%start = s32[] constant(2)", "%first = s32[] constant(4)\n  %start = s32[] copy(%first)", 6),
    ],
    ids=["from zero", "stated", "no counter", "carried", "computed", "copied"],
)
def test_trips_of_a_loop(old, new, turns):
    text = LOOPS.replace(old, new)
    assert text != LOOPS
    program = parsed(text)
    assert trips(program, "%main", program.computations["%main"]["%while.1"]) == turns
    times = [run.times for run in schedule(program) if run.instruction.name == "%fusion.1"]
    assert times == [turns or (1 if turns is None else 0)]


def line(text, *operands):
    """A program of one instruction."""
    given = "\n".join(f"  %p{index} = {each} parameter({index})" for index, each in enumerate(operands))
    return parsed(f"HloModule one\n\nENTRY %main (p0: f32[]) -> f32[] {{\n{given}\n  ROOT %out = {text}\n}}\n")


@pytest.mark.parametrize(
    ("text", "operands", "size"),
    [
        ("f32[8,128]{1,0} add(%p0, %p0)", ["f32[8,128]{1,0}"], 3 * 4096),
        ("bf16[8,128]{1,0} convert(%p0)", ["f32[8,128]{1,0}"], 4096 + 2048),
        ("f32[8,128]{1,0:T(8,128)S(1)} copy(%p0)", ["f32[8,128]{1,0:T(8,128)}"], 4096),
        ("f32[2,3]{1,0:T(8,128)} copy(%p0)", ["f32[2,3]{1,0:T(8,128)}"], 2 * 4096),
        ("f32[3,2]{0,1:T(8,128)} copy(%p0)", ["f32[3,2]{0,1:T(8,128)}"], 2 * 4096),
        ("f32[4]{0} slice(%p0), slice={[0:4]}", ["f32[1000]{0}"], 2 * 16),
        ("f32[5,8]{1,0} gather(%p0, %p1), offset_dims={1}", ["f32[1000,8]{1,0}", "s32[5,1]{1,0}"], 2 * 160 + 20),
        (
            "f32[1000,8]{1,0} scatter(%p0, %p1, %p2), to_apply=%add",
            ["f32[1000,8]{1,0}", "s32[5,1]{1,0}", "f32[5,8]{1,0}"],
            3 * 160 + 20,
        ),
        (
            "(f32[1000,8]{1,0}, f32[1000,8]{1,0}) scatter(%p0, %p1, %p2, %p3, %p4), to_apply=%add",
            ["f32[1000,8]{1,0}", "f32[1000,8]{1,0}", "s32[5,1]{1,0}", "f32[5,8]{1,0}", "f32[5,8]{1,0}"],
            6 * 160 + 20,
        ),
        (
            "(f32[8,128]{1,0:S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) copy-start(%p0)",
            ["f32[8,128]{1,0}"],
            4096,
        ),
        (
            "((f32[32,4]{1,0}), f32[8,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p0), slice={[0:8], [0:4]}",
            ["f32[32,4]{1,0}"],
            128,
        ),
        ("(f32[8]{0}, f32[16]{0}) all-gather-start(%p0), dimensions={0}", ["f32[8]{0}"], 32 + 64),
        ("f32[16]{0} all-gather-done(%p0)", ["(f32[8]{0}, f32[16]{0})"], 0),
        ('f32[16]{0} custom-call(), custom_call_target="AllocateBuffer"', [], 0),
        ("f32[8]{0} bitcast(%p0)", ["f32[2,4]{1,0}"], 0),
    ],
    ids=lambda each: each.split("(%")[0].replace("(", "").replace(")", "") if isinstance(each, str) else None,
)
def test_bytes_that_an_instruction_moves(text, operands, size):
    assert moved(line(text, *operands)) == size


CONVERTED = """HloModule converted

%sliced (a: bf16[10,1024]) -> f32[1,1024] {
  %a = bf16[10,1024]{1,0} parameter(0)
  %convert.1 = f32[10,1024]{1,0} convert(%a)
  ROOT %slice.1 = f32[1,1024]{1,0} slice(%convert.1), slice={[0:1], [0:1024]}
}

%updated (b: f32[10,1024], row: f32[1,1024]) -> bf16[10,1024] {
  %b = f32[10,1024]{1,0} parameter(0)
  %row = f32[1,1024]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %dynamic-update-slice.1 = f32[10,1024]{1,0} dynamic-update-slice(%b, %row, %zero, %zero)
  ROOT %convert.2 = bf16[10,1024]{1,0} convert(%dynamic-update-slice.1)
}

ENTRY %main (p0: bf16[10,1024], p1: f32[10,1024]) -> bf16[10,1024] {
  %p0 = bf16[10,1024]{1,0} parameter(0)
  %p1 = f32[10,1024]{1,0} parameter(1)
  %fusion.1 = f32[1,1024]{1,0} fusion(%p0), kind=kLoop, calls=%sliced
  ROOT %fusion.2 = bf16[10,1024]{1,0} fusion(%p1, %fusion.1), kind=kLoop, calls=%updated
}
"""


def test_what_a_fusion_converts_is_read_and_written_in_the_types_of_memory():
    assert moved(parsed(CONVERTED)) == (ROW / 2 + ROW) + (ROW + ROW / 2)


CALLING = """HloModule calling

%summed (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %negate.1 = f32[8]{0} negate(%a)
  ROOT %all-reduce.1 = f32[8]{0} all-reduce(%negate.1), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  ROOT %out = f32[8]{0} call(%p0), to_apply=%summed
}
"""


def test_what_a_computation_that_is_called_does_counts_once():
    program = parsed(CALLING)
    assert (moved(program), started(program)) == (2 * 2 * 32, 2)
    assert collectives(program, 4) == (("all-reduce", "4 devices", 2 * 3 / 4 * 32, 1),)


def test_a_collective_in_a_loop_is_sent_as_often_as_the_loop_turns():
    summed = "%summed = f32[1024]{0} all-reduce(%carry), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add"
    text = LOOPS.replace("  %one = s32[] constant(1)\n", f"  %one = s32[] constant(1)\n  {summed}\n")
    assert collectives(parsed(text), 4) == (("all-reduce", "4 devices", 8 * 2 * 3 / 4 * ROW, 8),)


def test_the_collectives_memory_of_a_gpu_is_its_memory():
    program = line("f32[8]{0:S(1)} copy(%p0)", "f32[8]{0}")
    assert (moved(program), moved(program, frozenset({0, 1}))) == (32, 64)


def test_types_are_read_with_their_layouts():
    first, second = arrays("(bf16[512,100]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[]{:T(512)})")
    assert (first.dtype, first.shape, first.bits, first.space) == ("bf16", (512, 100), 16, 1)
    assert (first.bytes, first.stored) == (512 * 100 * 2, 512 * 128 * 2)
    assert (second.dtype, second.shape, second.bytes) == ("pred", (), 1)


def mesh(**sizes):
    """Axes of a mesh that is nowhere."""
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


@pytest.mark.parametrize(
    ("attributes", "groups", "axis"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ((0, 1), (2, 3), (4, 5), (6, 7)), "tensor"),
        ("replica_groups=[4,2]<=[8]", ((0, 1), (2, 3), (4, 5), (6, 7)), "tensor"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7)), "data"),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7)), "fsdp"),
        ("replica_groups=[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7)), "fsdp+tensor"),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", ((0, 1, 4, 5), (2, 3, 6, 7)), "data+tensor"),
        ("replica_groups={}", ((0, 1, 2, 3, 4, 5, 6, 7),), "data+fsdp+tensor"),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}", ((0, 2), (1, 3), (4, 6), (5, 7)), "fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7)), "fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7)), "tensor"),
        ("replica_groups={{0,3},{1,2},{4,7},{5,6}}", ((0, 3), (1, 2), (4, 7), (5, 6)), "2 of 8 devices"),
    ],
    ids=lambda each: each.removeprefix("replica_groups=") if isinstance(each, str) else None,
)
def test_groups_in_every_form_lie_along_an_axis(attributes, groups, axis):
    found = parsed_groups(f"channel_id=3, {attributes}, use_global_device_ids=true", 8)
    assert {frozenset(group) for group in found} == {frozenset(group) for group in groups}
    assert axis_of(found, 8, mesh(data=2, fsdp=2, tensor=2)) == axis


def test_pairs_of_a_permutation_lie_along_an_axis():
    found = parsed_groups("channel_id=1, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", 4)
    assert axis_of(found, 4, mesh(fsdp=2, tensor=2), permutes=True) == "tensor"
    assert axis_of(((0, 1), (1, 2), (2, 0)), 3, mesh(data=3), permutes=True) == "data"


SENT = {  # bytes that a device sends in a ring of 4, of an operand of 4,096 bytes
    "all-reduce": 2 * 3 / 4 * 4096,
    "all-gather": 3 * 4096,
    "reduce-scatter": 3 / 4 * 4096,
    "all-to-all": 3 / 4 * 4096,
    "collective-permute": 4096,
}


@pytest.mark.parametrize("kind", SENT)
@pytest.mark.parametrize("form", ["", "-start"])
def test_bytes_that_a_device_sends(kind, form):
    groups = "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}" if "permute" in kind else "replica_groups=[1,4]<=[4]"
    program = line(f"f32[8,128]{{1,0}} {kind}{form}(%p0), channel_id=1, {groups}", "f32[8,128]{1,0}")
    (found,) = collectives(program, 4, mesh(fsdp=4))
    assert found == (kind, "fsdp", SENT[kind], 1)
    assert collectives(program, 4)[0].axis == ("neighbours" if "permute" in kind else "4 devices")


def test_a_group_of_one_sends_nothing():
    assert not collectives(line("f32[8]{0} all-reduce(%p0), replica_groups=[4,1]<=[4]", "f32[8]{0}"), 4)


FUSED = """HloModule fused

%begun (q0: f32[8]) -> f32[32] {
  %q0 = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[32]{0} all-gather(%q0), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
}

%ended (r0: f32[8]) -> f32[32] {
  %r0 = f32[8]{0} parameter(0)
  ROOT %all-gather.2 = f32[32]{0} all-gather(%r0), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.2 (s0: f32[32]) -> f32[8] {
  %s0 = f32[32]{0} parameter(0)
  %all-reduce.1 = f32[32]{0} all-reduce(%s0), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %slice.1 = f32[8]{0} slice(%all-reduce.1), slice={[0:8]}
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  %fusion.1 = f32[32]{0} fusion(%p0), kind=kCustom, calls=%begun
  %fusion.2 = f32[32]{0} fusion(%p0), kind=kCustom, calls=%ended
  ROOT %fusion.3 = f32[8]{0} fusion(%fusion.2), kind=kCustom, calls=%all-reduce-scatter.2
}
"""


def test_a_collective_that_a_tpu_writes_several_times_is_one_and_a_sliced_sum_is_a_scatter():
    found = collectives(parsed(FUSED), 4, mesh(fsdp=4))
    assert found == (("all-gather", "fsdp", 3 * 32, 1), ("reduce-scatter", "fsdp", 3 / 4 * 128, 1))


def test_a_collective_is_found_in_a_fusion_of_a_fusion():
    gathered = "all-gather(%q0), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}"
    text = FUSED.replace(gathered, "fusion(%q0), kind=kCustom, calls=%ended")
    text = text.replace("fusion(%p0), kind=kCustom, calls=%ended", "fusion(%p0), kind=kCustom, calls=%begun")
    assert text.count("calls=%begun") == 2
    assert collectives(parsed(text), 4) == collectives(parsed(FUSED), 4)


def test_branches_count_by_equal_shares():
    text = FUSED.replace(
        "%fusion.1 = f32[32]{0} fusion(%p0), kind=kCustom, calls=%begun",
        "%fusion.1 = f32[32]{0} conditional(%p0, %p0, %p0), branch_computations={%begun, %none}",
    ).replace("ENTRY", "%none (t0: f32[8]) -> f32[8] {\n  ROOT %t0 = f32[8]{0} parameter(0)\n}\n\nENTRY")
    times = {run.instruction.name: run.times for run in schedule(parsed(text))}
    assert times["%all-gather.1"] == 0.5


CUBLAS = (
    'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"precision_config":'
    '{"operand_precision":["%s","%s"],"algorithm":"ALG_UNSET"}}}'
)


@pytest.mark.parametrize(
    ("text", "types", "tpu", "gpu", "cpu"),
    [
        ("dot(%p0, %p1), lhs_contracting_dims={1}", ("f32", "f32"), "bfloat16", "tf32", "float32"),
        ("dot(%p0, %p1), operand_precision={highest,highest}", ("f32", "f32"), "float32", "float32", "float32"),
        ("convolution(%p0, %p1), operand_precision={high,highest}", ("f32", "f32"), "bfloat16_3x", "tf32", "float32"),
        ("dot(%p0, %p1), operand_precision={highest,highest}", ("f32", "bf16"), "bfloat16", "bfloat16", "bfloat16"),
        ("dot(%p0, %p1)", ("f16", "f16"), "float16", "float16", "float16"),
        ("dot(%p0, %p1)", ("s8", "s8"), "none", "none", "none"),
        ("dot(%p0, %p1), algorithm=dot_bf16_bf16_f32_x6", ("f32", "f32"), "float32", "float32", "float32"),
        ("dot(%p0, %p1), algorithm=dot_tf32_tf32_f32", ("f32", "f32"), "tf32", "tf32", "tf32"),
        (f"custom-call(%p0, %p1), {CUBLAS % ('DEFAULT', 'DEFAULT')}", ("f32", "f32"), "bfloat16", "tf32", "float32"),
        (f"custom-call(%p0, %p1), {CUBLAS % ('HIGHEST', 'HIGHEST')}", ("f32", "f32"), "float32", "float32", "float32"),
        ("add(%p0, %p1)", ("bf16", "bf16"), "none", "none", "none"),
    ],
    ids=range(11),
)
def test_the_precision_of_a_product(text, types, tpu, gpu, cpu):
    program = line(f"f32[8,8]{{1,0}} {text}", *(f"{each}[8,8]{{1,0}}" for each in types))
    assert [precision(program, platform) for platform in ("tpu", "gpu", "cpu")] == [tpu, gpu, cpu]
