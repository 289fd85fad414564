"""Start, end and other special tokens: every table that checkpoints list them in, each token once where it belongs."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from gvgap_jax.lm.data import encode
from gvgap_jax.lm.data.formats import CHAT, Format
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.tiny_tokenizer import CHATML, END, TURN, write_tokenizer

START = "<|im_start|>"
TALK = [{"role": "user", "content": "bread?"}]


def token(text, **flags):
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags


def written(folder, **others):
    """A tokenizer with more files; what has no name of its own are settings. None removes what is there."""
    files = {name: others.pop(name) for name in ("special_tokens_map", "added_tokens", "generation_config", "config")}
    write_tokenizer(folder, **others)
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def opened(folder, **others):
    absent = dict.fromkeys(("special_tokens_map", "added_tokens", "generation_config", "config"))
    return open_tokenizer(written(folder, **(absent | others)))


QWEN = {str(number): token(text, special=True) for number, text in enumerate((END, START, TURN))}
TABLES = {
    "a table by number": {"eos_token": TURN, "added_tokens_decoder": QWEN, "additional_special_tokens": [START, TURN]},
    "no more tokens": {"eos_token": TURN, "extra_special_tokens": {}},
    "more tokens by name": {"eos_token": TURN, "extra_special_tokens": {"image_token": START}},
    "more tokens in a list": {"eos_token": TURN, "extra_special_tokens": [START, token(TURN, __type="AddedToken")]},
    "code of its own": {"eos_token": TURN, "auto_map": {"AutoTokenizer": ["a.B", None]}},
    "an object": {"eos_token": token(TURN, __type="AddedToken"), "bos_token": None, "add_bos_token": False},
    "another file": {"eos_token": None, "special_tokens_map": {"eos_token": token(TURN)}},
    "another file before the settings": {"eos_token": END, "special_tokens_map": {"eos_token": TURN}},
    "the table before another file": {
        "eos_token": TURN,
        "added_tokens_decoder": QWEN,
        "special_tokens_map": {"eos_token": END},
    },
    "a number for generation": {"eos_token": None, "generation_config": {"eos_token_id": 2}},
    "numbers for generation": {"eos_token": None, "generation_config": {"eos_token_id": [2, 0]}},
    "a number of the model": {"eos_token": None, "config": {"eos_token_id": 2}},
    "a number of a text model": {"eos_token": None, "config": {"text_config": {"eos_token_id": 2}}},
    "an older list of added tokens": {"eos_token": TURN, "added_tokens": {TURN: 2}},
    "padding that is no token": {"eos_token": TURN, "pad_token": "[PAD]", "bos_token": "<nobody>"},
}


@pytest.mark.parametrize("table", TABLES)
def test_the_end_token_is_found_in_every_table(tmp_path, table):
    assert opened(tmp_path, **TABLES[table]).end == 2


def test_names_of_special_tokens_for_templates(tmp_path):
    found = opened(tmp_path, bos_token=token(END), extra_special_tokens={"image_token": START}, pad_token=None)
    assert found.named == {"eos_token": END, "bos_token": END, "image_token": START}


def test_tokens_that_only_the_settings_list_are_read_as_one(tmp_path):
    listed = {"390": token("<tool>", special=True), "391": token("<note>", special=False, rstrip=True)}
    found = opened(tmp_path, added_tokens_decoder=listed)
    assert found.size == 392
    assert found.encode("a<tool><note>  b") == [*found.encode("a"), 390, 391, *found.encode("b")]
    assert found.decode(found.encode("a<tool>b")) == "ab"
    older = opened(tmp_path / "older", added_tokens={"<tool>": 390})
    assert older.encode("a<tool>") == [*older.encode("a"), 390]


def test_a_model_may_lack_rows_for_tokens_that_few_texts_hold(tmp_path):
    """As checkpoints to which somebody added a token for padding."""
    whole = opened(tmp_path, added_tokens_decoder={"390": token("<pad>")}, generation_config={"eos_token_id": [0, 390]})
    assert (whole.size, whole.needed, whole.ends) == (391, 390, (0, 390))
    found = whole.within(390)
    assert (found.size, found.ends, found.within(500), found.beyond) == (390, (0,), found, {390: "<pad>"})
    rows = [
        Demonstration("dog", "bread", "a:1"),
        Demonstration("<pad>dog", "x", "a:2"),
        Demonstration("a", "<pad>", "a:3"),
    ]
    told = encode.demonstrations(rows, found, Format())
    assert [each[:2] for each in told.dropped] == [
        ("a:2", "prompt has '<pad>', a token that the model has no row for"),
        ("a:3", "response has '<pad>', a token that the model has no row for"),
    ]
    assert encode.demonstrations(rows, whole.within(391), Format()).dropped == []
    assert opened(tmp_path / "end", added_tokens_decoder={"390": token("<end>")}, eos_token="<end>").needed == 391


@pytest.mark.parametrize("where", ["eos_token", "additional_special_tokens", "extra_special_tokens"])
def test_a_word_of_the_vocabulary_that_the_settings_name_is_special(tmp_path, where):
    (word,) = open_tokenizer(write_tokenizer(tmp_path / "plain")).encode("do")
    found = opened(tmp_path / "named", **{where: "do" if where == "eos_token" else ["do"]})
    assert found.encode("xdoy") == [*found.encode("x"), word, *found.encode("y")]
    assert found.decode([*found.encode("x"), word, word]) == "x"


def test_every_end_token_ends(tmp_path):
    found = opened(tmp_path, generation_config={"eos_token_id": [1, 0, 389]}, config={"eos_token_id": 5})
    assert (found.end, found.ends) == (0, (0, 1, 389))
    assert opened(tmp_path / "config", config={"eos_token_id": 5}).ends == (0, 5)
    words = found.encode("dog bread")
    assert found.decode_batch([[*words, 1, *words], [*words, 389, *words], [*words, 0, 1, -1, -1]]) == ["dog bread"] * 3
    assert found.decode_prompts([[-1, 1, *words, 0, *words]]) == ["dog breaddog bread"]


@pytest.mark.parametrize("wrong", [True, -1, 1.5, "2", [2, "2"], {"a": 1}])
def test_an_end_that_is_no_token_is_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id must be a token or a list of tokens"):
        opened(tmp_path, generation_config={"eos_token_id": wrong})


def tokens_of(row):
    return row[row >= 0].tolist()


def test_a_response_with_another_end_token_ends_there(tmp_path):
    found = opened(tmp_path, generation_config={"eos_token_id": [0, 2]})
    rows = [
        Comparison("dog", f"bread{TURN}", f"the{END}", where="a:1"),
        Comparison("dog", f"bread{TURN} and", "the", where="a:2"),
        Comparison("dog", "bread", f"the{TURN}{END}", where="a:3"),
    ]
    pairs = encode.preferences(rows, found, Format())
    assert [tokens_of(row) for row in pairs.data.chosen] == [[*found.encode("bread"), 2], [*found.encode("bread"), 0]]
    assert [tokens_of(row) for row in pairs.data.rejected] == [[*found.encode("the"), 0], [*found.encode("the"), 2]]
    assert [tuple(each)[:2] for each in pairs.dropped] == [("a:2", "chosen goes on after its end token")]


def test_an_answer_of_a_conversation_ends_with_what_the_template_writes(tmp_path):
    found = opened(tmp_path, template=CHATML, eos_token=END)
    assert (found.turn.end, found.ends) == (2, (0, 2))
    data = encode.demonstrations([Demonstration(TALK, "bread")], found, CHAT).data
    assert tokens_of(data.responses[0]) == [*found.encode("bread"), 2]
    bare = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
    )
    found = opened(tmp_path / "bare", template=bare, eos_token=END)
    assert found.ends == (0,)
    data = encode.demonstrations([Demonstration(TALK, "bread")], found, CHAT).data
    assert tokens_of(data.responses[0]) == [*found.encode("bread\n"), 0]


def starting(folder, single, **settings):
    """A tokenizer that puts special tokens around every text."""
    write_tokenizer(folder, **settings)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    numbers = [(text, inner.token_to_id(text)) for text in (START, TURN)]
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=numbers)
    inner.save(str(folder / "tokenizer.json"))
    return open_tokenizer(folder)


AROUND = {"a start": (f"{START} $A", [1]), "an end": (f"$A {TURN}", []), "both": (f"{START} $A {TURN}", [1])}
AROUND |= {"nothing": ("$A", []), "two starts": (f"{START} {TURN} $A", [1, 2])}


@pytest.mark.parametrize("around", AROUND)
def test_prompts_begin_as_the_tokenizer_asks_and_responses_end_once(tmp_path, around):
    single, start = AROUND[around]
    found = starting(tmp_path, single, eos_token=TURN, add_bos_token=not start)
    plain = open_tokenizer(write_tokenizer(tmp_path / "plain"))
    assert found.start == tuple(start)
    assert found.encode("dog") == [*start, *plain.encode("dog")]
    data = encode.demonstrations([Demonstration("dog", " bread")], found, Format()).data
    assert tokens_of(data.prompts[0]) == [*start, *plain.encode("dog")]
    assert tokens_of(data.responses[0]) == [*plain.encode(" bread"), 2]


def test_a_text_that_has_its_start_token_gets_no_other(tmp_path):
    found = starting(tmp_path, f"{START} $A")
    room = 1 + len(found.encode("dog"))
    data = encode.prompts([Demonstration(f"{START}dog", "x"), Demonstration("dog", "x")], found, Format()).data
    assert tokens_of(data[0]) == tokens_of(data[1]) == [1, *open_tokenizer(write_tokenizer(tmp_path)).encode("dog")]
    exact = Format(prompt_tokens=room - 1)
    assert np.asarray(encode.prompts([Demonstration("dog", "x")], found, exact).data).shape == (1, room - 1)
    with pytest.raises(ValueError, match="prompt is longer"):
        encode.prompts([Demonstration("dog", "x")], found, Format(prompt_tokens=room - 2))


@pytest.mark.parametrize("writes", [True, False], ids=["written by the template", "not written by the template"])
def test_a_chat_template_writes_its_start_token_itself(tmp_path, writes):
    template = "{{ bos_token }}" * writes + CHATML
    found = starting(tmp_path, f"{TURN} $A", template=template, bos_token=TURN, eos_token=END)
    data = encode.prompts([Demonstration(TALK, "x")], found, CHAT).data
    assert tokens_of(data[0]).count(2) == 1 + writes
    assert (tokens_of(data[0])[0] == 2) == writes
