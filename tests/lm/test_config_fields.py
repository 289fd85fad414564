"""Checkpoints of others with damaged or hostile files: each is one sentence that names the file and what is wrong."""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gvgap_jax.lm.hf import architectures, fields, load
from gvgap_jax.lm.model.shape import RotaryScaling, Shape

GOLDEN = Path(__file__).parent / "golden_checkpoints"
KINDS = {"gpt_neox": "neox", "llama": "llama", "qwen2": "qwen2_tied"}
CONFIGS = {kind: json.loads((GOLDEN / name / "config.json").read_text()) for kind, name in KINDS.items()}

NUMBERS = ["x", "12", True, False, [4], {"a": 4}, -1, float("nan"), float("inf"), 10**30, [[[]]]]
WHOLE = [*NUMBERS, 0, 2.5, 4.0]
SHARES = ["a", True, [0.5], -0.1, 1.1, float("nan")]
SWITCHES = [0, 1, "true", [], {}, 0.5]
WINDOWS = ["x", True, -1, 2.5, [1]]
TEXTS = [3, True, ["llama"], {"a": 1}]
OBJECTS = ["x", 3, True, [{}]]
BAD = {
    "vocab_size": WHOLE,
    "num_hidden_layers": WHOLE,
    "hidden_size": WHOLE,
    "num_attention_heads": WHOLE,
    "intermediate_size": WHOLE,
    "num_key_value_heads": WHOLE,
    "head_dim": WHOLE,
    "max_position_embeddings": WHOLE,
    "layer_norm_eps": [*NUMBERS, 0],
    "rms_norm_eps": [*NUMBERS, 0],
    "rope_theta": [*NUMBERS, 0],
    "rotary_emb_base": [*NUMBERS, 0],
    "rotary_pct": SHARES,
    "partial_rotary_factor": SHARES,
    "tie_word_embeddings": SWITCHES,
    "use_parallel_residual": SWITCHES,
    "attention_bias": SWITCHES,
    "mlp_bias": SWITCHES,
    "use_sliding_window": SWITCHES,
    "sliding_window": WINDOWS,
    "max_window_layers": WINDOWS,
    "model_type": TEXTS,
    "hidden_act": TEXTS,
    "rope_parameters": OBJECTS,
    "rope_scaling": OBJECTS,
    "layer_types": ["full_attention", 3, {"a": 1}, [3], [["full_attention"]], [None]],
    "hidden_activation": TEXTS,
    "activation_function": TEXTS,
    "n_embd": WHOLE,
    "n_layer": WHOLE,
    "n_head": WHOLE,
    "n_inner": WHOLE,
    "n_positions": WHOLE,
    "layer_norm_epsilon": [*NUMBERS, 0],
    "scale_attn_weights": SWITCHES,
    "query_pre_attn_scalar": [*NUMBERS, 0],
    "attn_logit_softcapping": [*NUMBERS, 0],
    "final_logit_softcapping": [*NUMBERS, 0],
    "sliding_window_pattern": WHOLE,
    "rope_local_base_freq": [*NUMBERS, 0],
    "no_rope_layers": ["x", 3, {"a": 1}, ["x"], [[1]], [None], [True], [0.5]],
    "no_rope_layer_interval": WHOLE,
    "is_causal": SWITCHES,
}
IN_ROTARY = {
    "rope_theta": [*NUMBERS, 0],
    "factor": [*NUMBERS, 0],
    "partial_rotary_factor": ["a", True, -0.1, 1.1, float("nan")],
    "low_freq_factor": ["x", True, -1, float("nan"), [1]],
    "high_freq_factor": ["x", True, -1, float("inf"), {"a": 1}],
    "original_max_position_embeddings": WHOLE,
    "rope_type": [3, True, ["llama3"], {}],
}


def refused(config):
    with pytest.raises(ValueError, match=r"^config\.json: ") as found:
        architectures.shape_of(config)
    assert len(str(found.value)) < 250
    return str(found.value)


@pytest.mark.parametrize("field", BAD)
def test_a_field_of_another_type_or_out_of_its_range_is_named(field):
    for config in CONFIGS.values():
        for value in BAD[field]:
            said = refused(config | {field: value})
            assert f"{field} must be " in said, value
            assert f"{fields.FIELDS[field]}" in said


@pytest.mark.parametrize("field", IN_ROTARY)
@pytest.mark.parametrize("group", ["rope_parameters", "rope_scaling"])
def test_a_field_of_rotary_embeddings_is_named_with_its_group(group, field):
    plain = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for value in IN_ROTARY[field]:
        said = refused(CONFIGS["llama"] | {group: plain | {field: value}})
        assert f"{group}.{field} must be {fields.ROTARY[field]}, got " in said


def test_every_field_of_the_table_is_tried():
    assert set(BAD) == set(fields.FIELDS) - {"original_max_position_embeddings"}
    assert set(IN_ROTARY) == set(fields.ROTARY) - {"type"}
    for value in WHOLE:
        assert "original_max_position" in refused(CONFIGS["llama"] | {"original_max_position_embeddings": value})


@pytest.mark.parametrize("config", [[], [{}], "x", 3, None, True])
def test_a_configuration_that_is_no_object_is_refused(config):
    with pytest.raises(ValueError, match=r"config\.json must be an object, got "):
        architectures.shape_of(config)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gpt_neox", {"hidden_size": 31}, "hidden_size must be a multiple of num_attention_heads, got 31 and 3"),
        ("gpt_neox", {"num_attention_heads": 4}, "must be a multiple of num_attention_heads, got 30 and 4"),
        ("llama", {"num_attention_heads": 5, "head_dim": None}, "must be a multiple of num_attention_heads"),
        ("llama", {"num_key_value_heads": 5}, "5 key-value heads do not divide"),
        ("llama", {"head_dim": 5}, "rotated width of a head must be even, got 5"),
        ("gpt_neox", {"num_attention_heads": 10**5}, "must be a multiple of num_attention_heads"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": None}}, "have no factor"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}},
            "high must be above low, got 4",
        ),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(kind, changes, words):
    with pytest.raises(ValueError, match=words):
        architectures.shape_of(CONFIGS[kind] | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocabulary": "x"}, "vocabulary must be an integer of at least 1, got 'x'"),
        ({"layers": 2.5}, "layers must be an integer"),
        ({"layers": True}, "layers must be an integer"),
        ({"width": float("nan")}, "width must be an integer"),
        ({"heads": None}, "heads must be an integer"),
        ({"epsilon": float("nan")}, "epsilon must be a number from 0 to 1, got nan"),
        ({"rotary": "a"}, "rotary must be a number from 0 to 1, got 'a'"),
        ({"rotary": 1.5}, "rotary must be a number from 0 to 1, got 1.5"),
        ({"rotary_base": float("inf")}, "rotary_base must be a number from 1 to 1e"),
        ({"norm": "batch"}, "there is no norm 'batch'; there are layer, rms"),
        ({"bias": "some"}, "there is no bias 'some'"),
        ({"dtype": "int8"}, "there is no dtype 'int8'"),
        ({"rotary_scaling": {"factor": 2}}, "rotary_scaling must be a RotaryScaling, got {'factor': 2}"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ValueError, match=f"Shape: {words}"):
        Shape(**({"vocabulary": 7} | changes))


@pytest.mark.parametrize(
    "given", [(float("nan"),), (float("inf"),), (2.0, 8, float("nan")), (2.0, 8, 1.0, float("inf"))]
)
def test_scalings_without_end_are_refused(given):
    with pytest.raises(ValueError, match="RotaryScaling: "):
        RotaryScaling(*given)


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(GOLDEN / "llama", tmp_path / "model"))


def pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def huge(path):
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(2**30)  # a hole that takes no space


FILES = {
    "a gigabyte": (huge, "is larger than 4 MiB"),
    "nothing": (b"", "is no JSON object .*damaged"),
    "half of it": (b'{"model_type": "llama", ', "is no JSON object .*damaged"),
    "a list": (b"[1, 2]", "is no JSON object, but a list"),
    "a number": (b"3", "is no JSON object, but a number"),
    "null": (b"null", "is no JSON object, but null"),
    "lists inside of lists": (b"[" * 100_000, "is no JSON object .*it is nested too deeply"),
    "objects inside of objects": (
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "is no JSON object .*it is nested too deeply",
    ),
    "a number of 5,000 digits": (b'{"vocab_size": ' + b"9" * 5000 + b"}", "is no JSON object"),
    "another encoding": ('{"model_type": "é"}'.encode("utf-16"), "is no text in UTF-8"),
    "bytes": (bytes(range(256)), "is no text in UTF-8"),
    "a pickle": (b"\x80\x04\x95.", "is no text in UTF-8"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_config_file_that_cannot_be_read_is_named(checkpoint, what):
    content, words = FILES[what]
    content(checkpoint / "config.json") if callable(content) else (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model.config\.json {words}") as found:
        load.open_checkpoint(checkpoint)
    assert len(str(found.value).replace(str(checkpoint), "")) < 200
    with pytest.raises(ValueError, match=words):
        load.shape_of(checkpoint)


@pytest.mark.parametrize("what", [pipe, folder])
def test_what_is_no_file_is_no_config(checkpoint, what):
    what(checkpoint / "config.json")
    with pytest.raises(ValueError, match=r"holds no config\.json; a checkpoint is a folder with one"):
        load.open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 9_999},
        {"vocab_size": 10**8},
        {"hidden_size": 999_999, "head_dim": 4},
        {"intermediate_size": 10**7},
    ],
    ids=str,
)
def test_a_configuration_of_a_larger_model_than_the_weights_allocates_nothing(checkpoint, changes):
    (checkpoint / "config.json").write_text(json.dumps(CONFIGS["llama"] | changes))
    with pytest.raises(ValueError, match=r"has no model\.layers|, but config\.json makes it \("):
        load.open_checkpoint(checkpoint)


INDEXES = {
    "a file outside": ("../outside.safetensors", "may only name files of its own folder"),
    "a file in a folder below": ("below/model.safetensors", "may only name files of its own folder"),
    "an absolute path": ("/etc/model.safetensors", "may only name files of its own folder"),
    "a path of Windows": ("..\\outside.safetensors", "may only name files of its own folder"),
    "a drive of Windows": ("C:model.safetensors", "may only name files of its own folder"),
    "a share of Windows": ("\\\\host\\share\\model.safetensors", "may only name files of its own folder"),
    "a folder": ("..", "may only name files of its own folder"),
    "this folder": (".", "may only name files of its own folder"),
    "an address": ("https://host/model.safetensors", "may only name files of its own folder"),
    "no name": ("", "may only name files of its own folder"),
    "a name with a zero": ("model\0.safetensors", "may only name files of its own folder"),
    "a name that paints the terminal": ("\x1b[2Jmodel.safetensors", "may only name files of its own folder"),
    "a pickle": ("pytorch_model.bin", "only .safetensors files are read, because a file that Python unpickles may run"),
    "a PyTorch file": ("model.pt", "only .safetensors files are read"),
    "a NumPy file": ("model.npz", "only .safetensors files are read"),
    "a file that is not there": ("model-9.safetensors", "lacks model-9.safetensors"),
    "a number": (3, "has no weight_map from tensors to files"),
    "a list": (["model.safetensors"], "has no weight_map from tensors to files"),
    "null": (None, "has no weight_map from tensors to files"),
}


def indexed(checkpoint, content):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(content))
    return checkpoint


@pytest.mark.parametrize("what", INDEXES)
def test_an_index_may_only_name_safetensors_of_its_folder(checkpoint, what):
    name, words = INDEXES[what]
    with pytest.raises(ValueError, match=words) as found:
        load.open_checkpoint(indexed(checkpoint, {"weight_map": {"lm_head.weight": name}}))
    assert str(found.value).isprintable()


@pytest.mark.parametrize("places", [{}, [], 3, "model.safetensors", None, {"metadata": {}}])
def test_an_index_without_places_is_named(checkpoint, places):
    content = {"weight_map": places} if places != {"metadata": {}} else places
    with pytest.raises(ValueError, match=r"index\.json has no weight_map from tensors to files"):
        load.open_checkpoint(indexed(checkpoint, content))


def test_links_of_a_hubs_cache_are_followed(checkpoint):
    """snapshots/REVISION/model.safetensors is a link to blobs/DIGEST there."""
    names = list(load.open_checkpoint(checkpoint).tensors)
    blobs = checkpoint.parent / "blobs"
    blobs.mkdir()
    (checkpoint / "model.safetensors").rename(blobs / "0123")
    (checkpoint / "one.safetensors").symlink_to(Path("..") / "blobs" / "0123")
    index = {"weight_map": dict.fromkeys(names, "one.safetensors")}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(load.open_checkpoint(checkpoint).tensors) == names
    (checkpoint / "model.safetensors").symlink_to(Path("..") / "blobs" / "0123")
    assert list(load.open_checkpoint(checkpoint).tensors) == names


def tensor(start, stop, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HEADERS = {
    "more than the file has": ({"a": tensor(0, 32, (8,))}, "not fully covered"),
    "less than the file has": ({"a": tensor(0, 8, (2,))}, "not fully covered"),
    "two tensors in one place": ({"a": tensor(0, 16), "b": tensor(8, 24)}, "invalid offset for tensor `b`"),
    "a hole": ({"a": tensor(4, 20)}, "invalid offset for tensor `a`"),
    "an end before its beginning": ({"a": tensor(16, 0)}, "invalid offset for tensor `a`"),
    "a negative offset": ({"a": tensor(-1, 16)}, "integer `-1`"),
    "an offset of 2^70": ({"a": tensor(0, 2**70)}, "expected usize"),
    "a shape of 2^80": ({"a": tensor(0, 16, (2**40, 2**40))}, "overflow computing buffer size"),
    "another shape than its bytes": ({"a": tensor(0, 16, (5,))}, "invalid shape, data type, or offset"),
    "a negative shape": ({"a": tensor(0, 16, (-4,))}, "integer `-4`"),
    "a dtype that nobody has": ({"a": tensor(0, 16, dtype="X9")}, "unknown variant `X9`"),
    "a dtype that is not here": (
        {"a": tensor(0, 16, dtype="I32")},
        "a is stored as I32; there are F64, F32, F16, BF16",
    ),
    "a tensor that the model has not": ({"a": tensor(0, 16)}, "which its config.json asks for"),
    "a tensor that is a number": ({"a": 3}, "invalid type: integer `3`"),
    "a list": ([1], "invalid type: sequence"),
    "half of it": (b'{"a":', "EOF while parsing"),
    "lists inside of lists": (b"[" * 100_000, "invalid"),
    "nothing": (b"", "EOF while parsing"),
    "no text": (b"\xff" * 9, "invalid UTF-8"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_does_not_describe_its_file_is_named(checkpoint, what):
    header, words = HEADERS[what]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(ValueError, match=rf"model.* {words}|{words}"):
        load.open_checkpoint(checkpoint)


@pytest.mark.parametrize("size", [17, 10**8, 2**40, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_named(checkpoint, size):
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(ValueError, match=r"model\.safetensors is cut short or damaged"):
        load.open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is cut short or damaged"),
        (b"\x80\x04\x95", "is cut short"),
        (pipe, "holds neither"),
        (folder, "holds neither"),
    ],
    ids=["nothing", "a pickle", "a pipe", "a folder"],
)
def test_weights_that_are_none_are_named(checkpoint, content, words):
    path = checkpoint / "model.safetensors"
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load.open_checkpoint(checkpoint)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(checkpoint, number):
    path = checkpoint / "model.safetensors"
    stored = load_file(path)
    stored["model.norm.weight"][3] = number
    save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors: model\.norm\.weight holds numbers that are not finite"):
        load.load(load.open_checkpoint(checkpoint))
