"""Tokenizers, chat templates, formats, and rows as arrays, against plain Python and the peer library."""

import dataclasses
import json
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gvgap_jax.lm.data import arrays, encode
from gvgap_jax.lm.data.formats import CHAT, TLDR, TRANSCRIPT, Format
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from gvgap_jax.training import checkpoints
from tests.lm.tiny_tokenizer import CHATML, END, TURN, write_tokenizer

POST = {"subreddit": "bread", "title": "Help", "post": "The dog\n\nate my bread.\nWhat now?"}
TALK = [{"role": "user", "content": "How do I bake bread?"}]
SIZE = 390  # that is all that there is to merge
ANSWER = {"role": "assistant", "content": "With flour."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("chat"), CHATML, eos_token=TURN, bos_token=END)


@pytest.fixture(scope="module")
def chat(chat_folder):
    return open_tokenizer(chat_folder)


def text_of(tokenizer, tokens):
    return tokenizer.inner.decode([token for token in tokens if token >= 0], skip_special_tokens=False)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_comes_back(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode([*tokens, tokenizer.end, *tokenizer.encode("more"), -1, -1]) == text
    assert tokenizer.encode_batch([text, text]) == [tokens, tokens]


def test_a_tokenizer_says_its_size_and_tokens(tokenizer, chat):
    assert tokenizer.size == tokenizer.inner.get_vocab_size() == SIZE
    assert (tokenizer.end, tokenizer.ends, tokenizer.start) == (0, (0,), ())
    assert (chat.end, chat.ends, chat.start) == (2, (2,), ())
    assert tokenizer.decode_batch([[-1, -1], [tokenizer.end, 5], [-1, -1]]) == ["", "", ""]
    assert tokenizer.decode([450]) == ""


def test_the_end_token_by_name_and_in_other_files(folder, tmp_path):
    assert open_tokenizer(folder, end=TURN).end == open_tokenizer(folder).inner.token_to_id(TURN)
    other = write_tokenizer(tmp_path, eos_token=None)
    (other / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": TURN, "lstrip": False}}))
    (other / "tokenizer_config.json").write_text("{}")
    assert open_tokenizer(other).end == open_tokenizer(folder, end=TURN).end


def test_what_is_no_tokenizer(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json; name a folder"):
        open_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"no/such/folder is no local folder, and could not be fetched"):
        open_tokenizer("/no/such/folder")
    with pytest.raises(ValueError, match="has no token '<eos>'"):
        open_tokenizer(folder, end="<eos>")
    with pytest.raises(ValueError, match="has no end token"):
        open_tokenizer(write_tokenizer(tmp_path / "endless", eos_token=None))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer of the tokenizers library"):
        open_tokenizer(tmp_path)
    broken = write_tokenizer(tmp_path / "broken")
    (broken / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON object"):
        open_tokenizer(broken)


def test_a_package_that_is_not_there(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"tokenizers is not installed; .* \"gvgap_jax\[tldr\]\""):
        open_tokenizer(folder)


def test_a_repository_of_the_hub(folder, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert open_tokenizer("EleutherAI/pythia-1b-deduped").size == SIZE
    assert asked[0][0] == "EleutherAI/pythia-1b-deduped"
    assert "tokenizer.json" in asked[0][1]
    monkeypatch.setattr(hub, "snapshot_download", lambda name, revision, allow_patterns: str(tmp_path))
    with pytest.raises(ValueError, match=r"some/name has no tokenizer\.json; name a folder, or a repository"):
        open_tokenizer("some/name")

    def offline(name, revision, allow_patterns):
        raise OSError("no route\nto host")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"some/name is no local folder, and could not be fetched .*\(no route\)"):
        open_tokenizer("some/name")


def test_a_chat_template(chat, tokenizer):
    asked = chat.render(TALK, ask=True)
    assert asked == "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.render([*TALK, ANSWER], ask=False) == f"{asked}With flour.<|im_end|>\n"
    with pytest.raises(ValueError, match="this tokenizer has no chat template"):
        tokenizer.render(TALK, ask=True)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate"),
        ("{{ messages.clear() }}", "refuses the messages"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "refuses the messages"),
        ("{% for %}", "refuses the messages"),
        ("{{ 'x' + None }}", "refuses the messages"),
    ],
)
def test_a_template_that_refuses(chat, template, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(chat, chat_template=template).render(TALK, ask=True)


def test_where_templates_stand(tmp_path):
    listed = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual {{ eos_token }}"}]
    for several in (listed, {each["name"]: each["template"] for each in listed}):
        found = open_tokenizer(write_tokenizer(tmp_path, several))
        assert found.render(TALK, ask=True) == f"usual {END}"
    (tmp_path / "chat_template.jinja").write_text("{{ messages | tojson }} {{ strftime_now is defined }}")
    assert open_tokenizer(tmp_path).render([{"role": "a", "content": "<é>"}], ask=True) == (
        '[{"role": "a", "content": "<é>"}] False'
    )


def test_the_peer_library_encodes_and_renders_the_same(chat_folder, chat):
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoTokenizer.from_pretrained(str(chat_folder))
    for text in ["The dog ate bread.", f"two{END}texts", "  blanks \n\n\n and é ☃"]:
        assert chat.encode(text) == peer.encode(text, add_special_tokens=False)
    for messages in [TALK, [*TALK, ANSWER], [{"role": "system", "content": " Be brief. "}, *TALK]]:
        for ask in (True, False):
            text = peer.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False)
            assert chat.render(messages, ask) == text
            tokens = peer.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False)
            assert chat.encode(text) == tokens


def test_the_query_of_summaries(tokenizer):
    text = TLDR.prompt(POST, tokenizer)
    assert text == ("SUBREDDIT: r/bread\n\nTITLE: Help\n\nPOST: The dog\n\nate my bread.\nWhat now?\n\nTL;DR:")
    assert TLDR.parse(text) == POST
    assert TLDR.response(POST, "\n  Dog ate it ", tokenizer) == " Dog ate it "
    assert (TLDR.prompt_tokens, TLDR.response_tokens) == (512, 53)


@given(fields=st.fixed_dictionaries({name: st.text(max_size=9) for name in POST}))
def test_a_written_out_query_has_the_same_text_again(tokenizer, fields):
    text = TLDR.prompt(fields, tokenizer)
    assert TLDR.prompt(text, tokenizer) == text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt_tokens": 0}, "room for at least 1 token"),
        ({"shorten": "post"}, r"no field 'post' to shorten; it has \['prompt'\]"),
        ({"template": "{a} {a}"}, "fields need names, each its own"),
        ({"template": "{}"}, "fields need names"),
        ({"long_response": "keep"}, "must be 'drop' or 'cut'"),
    ],
)
def test_a_format_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Format(**settings)


def by_the_book(fields, tokenizer, how, limit):
    """The rule of arXiv 2403.17031, one cut at a time."""
    while len(tokens := tokenizer.encode(how.template.format(**fields))) > limit:
        if not fields["post"]:
            return None
        cut = fields["post"].rindex("\n") if "\n" in fields["post"] else -1
        fields = fields | {"post": fields["post"][:cut]}
    return tokens


def test_the_same_prompt_again_and_prompts_in_batches(tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 2)
    how = dataclasses.replace(TLDR, prompt_tokens=70)
    posts = ["dog\n" * 60, "dog", "bread\n" * 60, "dog\n" * 60, "dog " * 300, "bread", "the " * 90]
    rows = [Demonstration(POST | {"post": post}, "x", post) for post in posts]
    found = encode.prompts(rows, tokenizer, how)
    for row, tokens in zip(rows, found.data, strict=True):
        assert tokens[tokens >= 0].tolist() == by_the_book(row.prompt, tokenizer, how, 70)
    assert (found.rows, found.shortened) == (rows, 5)


@given(
    post=st.lists(st.sampled_from(["the dog", " bread", "\n", "\n\n", "é", "x" * 9, " does not mind"]), max_size=60),
    limit=st.integers(20, 60),
)
def test_a_long_prompt_is_shortened_by_the_book(tokenizer, post, limit):
    fields = POST | {"post": "".join(post)}
    how = dataclasses.replace(TLDR, prompt_tokens=limit)
    expected = by_the_book(fields, tokenizer, how, limit)
    rows = [Demonstration(fields, "fine", "a:1"), Demonstration({name: "" for name in POST}, "fine", "a:2")]
    if expected is None:
        with pytest.raises(ValueError, match="prompt is longer than"):
            encode.prompts(rows[:1], tokenizer, how)
        return
    found = encode.prompts(rows[:1], tokenizer, how)
    assert found.data[0, limit - len(expected) :].tolist() == expected
    assert (found.data[0, : limit - len(expected)] == -1).all()
    assert found.shortened == (len(tokenizer.encode(how.template.format(**fields))) > limit)


@pytest.mark.parametrize("text", ["dog bread " * 90, "one line\n" + "aé" * 150, "x\n" * 150])
def test_cuts_that_are_passed_over_would_not_have_fitted(tokenizer, text):
    fields = POST | {"post": text}
    how = dataclasses.replace(TLDR, prompt_tokens=100)
    found = encode.prompts([Demonstration(fields, "y")], tokenizer, how)
    expected = by_the_book(fields, tokenizer, how, 100)
    assert expected is not None
    assert found.data[0, -len(expected) :].tolist() == expected


def comparison(chosen, rejected, prompt=POST, where="a:1"):
    return Comparison(prompt, chosen, rejected, None, where)


def test_comparisons_become_pairs(tokenizer):
    rows = [comparison("Dog ate it", " The dog"), comparison("A", "B", prompt=TLDR.prompt(POST, tokenizer))]
    how = dataclasses.replace(TLDR, prompt_tokens=80, response_tokens=10)
    found = encode.preferences(rows, tokenizer, how)
    pairs = found.data
    assert pairs.prompts.shape == (2, 80)
    assert pairs.chosen.shape == pairs.rejected.shape == (2, 10)
    assert all(isinstance(leaf, np.ndarray) for leaf in pairs)
    assert pairs.prompts[0].tolist() == pairs.prompts[1].tolist()
    assert tokenizer.decode_batch(pairs.chosen) == [" Dog ate it", " A"]
    assert tokenizer.decode_batch(pairs.rejected) == [" The dog", " B"]
    assert ((pairs.chosen == tokenizer.end).sum(1) == 1).all()
    assert (pairs.weight.tolist(), pairs.reference_margin.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    assert (found.rows, found.dropped, found.shortened) == (rows, [], 0)
    assert found.report() == "all 2 rows are used. 0 prompts are shortened."
    whole = tokenizer.encode(f"{TLDR.prompt(POST, tokenizer)} Dog ate it{END}")
    assert [*pairs.prompts[0][pairs.prompts[0] >= 0], *pairs.chosen[0][pairs.chosen[0] >= 0]] == whole
    again = encode.preferences(rows, tokenizer, how).data
    assert checkpoints.digest(pairs) == checkpoints.digest(again)
    assert checkpoints.digest(pairs) != checkpoints.digest(pairs._replace(chosen=pairs.rejected))


def test_what_does_not_fit_is_named(tokenizer):
    how = dataclasses.replace(TLDR, prompt_tokens=60, response_tokens=6, shorten=None)
    rows = [
        comparison("it", "dog"),
        comparison("dog " * 9, "dog", where="a:2"),
        comparison("dog", "dog " * 9, where="a:3"),
        comparison("it", "dog", POST | {"post": "bread " * 90}, where="a:4"),
        comparison("it", "  it", where="a:5"),
        comparison(f"it{END} and", "dog", where="a:6"),
        comparison("it", "dog", "Summarise this!", where="a:7"),
        comparison("it", "dog", {"post": "bread"}, where="a:8"),
        comparison("it", "dog", TALK, where="a:9"),
        comparison("dog", f"it{END}\n", where="a:10"),
    ]
    found = encode.preferences(rows, tokenizer, how)
    assert found.rows == [rows[0], rows[9]]
    assert [tuple(each)[:2] for each in found.dropped] == [
        ("a:2", "chosen is longer than 6 tokens"),
        ("a:3", "rejected is longer than 6 tokens"),
        ("a:4", "prompt is longer than 60 tokens"),
        ("a:5", "chosen and rejected are the same tokens"),
        ("a:6", "chosen goes on after its end token"),
        ("a:7", f"prompt has not the form of the template {how.template!r}"),
        ("a:8", "prompt has not all fields of the template (subreddit, title, post)"),
        ("a:9", "prompt is messages, which need a Format with chat"),
    ]
    assert found.report().startswith("8 of 10 rows (80.00%) are not used: 1 × chosen is longer than 6 tokens (a:2);")
    with pytest.raises(ValueError, match="no row fits the format: 1 of 1 rows"):
        encode.preferences(rows[1:2], tokenizer, how)
    with pytest.raises(ValueError, match="no row fits the format"):
        encode.preferences([], tokenizer, how)


def test_long_responses_can_be_cut(tokenizer):
    how = dataclasses.replace(TLDR, response_tokens=6, long_response="cut")
    rows = [Demonstration(POST, "dog " * 9, "a:1"), Demonstration(POST, "dog", "a:2")]
    found = encode.demonstrations(rows, tokenizer, how).data
    whole = tokenizer.encode(" " + "dog " * 9)
    assert found.responses[0].tolist() == whole[:6]
    assert (found.responses[1] == tokenizer.end).sum() == 1
    assert found.weight.tolist() == [1.0, 1.0]
    assert found.prompts.shape == (2, 512)


@given(length=st.integers(1, 12))
def test_a_response_fills_its_room_and_no_more(tokenizer, length):
    row = Demonstration("ask", "x" * length, "a:1")
    how = Format(prompt_tokens=4, response_tokens=6)
    needed = len(tokenizer.encode("x" * length)) + 1
    if needed <= 6:
        assert (encode.demonstrations([row], tokenizer, how).data.responses >= 0).sum() == needed
    else:
        with pytest.raises(ValueError, match="response is longer than 6 tokens"):
            encode.demonstrations([row], tokenizer, how)


def test_a_transcript_goes_on_with_one_blank(tokenizer):
    asked = "\n\nHuman: bread?\n\nAssistant:"
    found = encode.demonstrations([Demonstration(asked, "Flour.")], tokenizer, TRANSCRIPT).data
    assert text_of(tokenizer, found.prompts[0]) + text_of(tokenizer, found.responses[0]) == f"{asked} Flour.{END}"


def test_conversations(chat, tokenizer):
    rows = [
        Demonstration(TALK, "With flour.", "a:1"),
        Demonstration("How do I bake bread?", "With flour.", "a:2"),
        Demonstration([*TALK, ANSWER, *TALK], "Slowly.", "a:3"),
    ]
    found = encode.demonstrations(rows, chat, CHAT).data
    assert found.prompts[0].tolist() == found.prompts[1].tolist()
    assert text_of(chat, found.prompts[0]) == chat.render(TALK, ask=True)
    assert text_of(chat, found.responses[0]) == f"With flour.{TURN}"
    assert text_of(chat, found.prompts[2]) + text_of(chat, found.responses[2]) + "\n" == chat.render(
        [*TALK, ANSWER, *TALK, {"role": "assistant", "content": "Slowly."}], ask=False
    )
    with pytest.raises(ValueError, match="no chat template"):
        encode.demonstrations(rows, tokenizer, CHAT)


def test_posts_in_a_conversation_are_shortened_too(chat):
    how = dataclasses.replace(TLDR, chat=True, separator="", prompt_tokens=70)
    row = Demonstration(POST | {"post": "The dog.\n" * 40}, "Dog.")
    found = encode.prompts([row], chat, how)
    text = text_of(chat, found.data[0])
    lines = text.count("The dog.")
    assert 0 < lines < 40
    assert found.shortened == 1
    assert text == how.prompt(POST | {"post": "\n".join(["The dog."] * lines)}, chat)
    one_more = how.prompt(POST | {"post": "\n".join(["The dog."] * (lines + 1))}, chat)
    assert len(chat.encode(one_more)) > 70


def test_a_template_that_rewrites_the_conversation(chat):
    rewriting = dataclasses.replace(chat, chat_template="{{ messages | length }}{{ messages[-1]['content'] }}")
    with pytest.raises(ValueError, match="response is not written behind the prompt by the chat template"):
        encode.demonstrations([Demonstration(TALK, "x")], rewriting, CHAT)


@given(rows=st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6))
def test_padding_is_what_a_loop_would_write(rows):
    left, right = arrays.prompts(rows, 10, 5).tolist(), arrays.responses(rows, 10, 5).tolist()
    assert left == [[-1] * (5 - len(row)) + row for row in rows]
    assert right == [row + [-1] * (5 - len(row)) for row in rows]


def test_demonstrations_need_their_responses():
    assert arrays.demonstrations([[0], [1]], [[2], []], 3, 1, 2).responses.tolist() == [[2, -1], [-1, -1]]
    with pytest.raises(ValueError, match="got 2 prompts and 1"):
        arrays.demonstrations([[0], [1]], [[2]], 3, 1, 2)
    with pytest.raises(ValueError, match=r"prompt 1 has a token outside the vocabulary, 0 to 2: \[3\]"):
        arrays.demonstrations([[0], [3], [0, 0]], [[2]] * 3, 3, 1, 2)


def test_what_a_judge_reads_is_as_wide_as_it_needs_to_be(tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "WIDTHS", 8)
    first, second = ["dog", "bread " * 9, "the", f"a{END}b", ""], ["bread", "the", "dog " * 99, "dog", "x"]
    asked = [POST, POST | {"title": "dog"}, POST, POST, POST | {"post": "bread " * 99}]
    found = encode.to_judge(asked, first, second, tokenizer, dataclasses.replace(TLDR, response_tokens=1), 100)
    assert found.rows == [0, 1]
    assert found.reasons == {
        2: "second response is longer than 100 tokens",
        3: "first response goes on after its end token",
        4: "prompt is longer than 100 tokens",
    }
    texts = [f" {text}" for row in found.rows for text in (first[row], second[row])]
    assert tokenizer.decode_batch(found.responses.reshape(4, -1)) == texts
    assert (found.responses == tokenizer.end).sum(axis=2).tolist() == [[1, 1], [1, 1]]
    assert [tokens[tokens >= 0].tolist() for tokens in found.prompts] == [
        tokenizer.encode(TLDR.prompt(asked[row], tokenizer)) for row in found.rows
    ]
    for tokens in (found.prompts, found.responses):
        longest = (tokens >= 0).sum(axis=-1).max()
        assert tokens.shape[-1] == 8 * -(-longest // 8)


def test_a_prompt_and_its_response_must_fit_together(tokenizer):
    length = len(tokenizer.encode("dog")) + len(tokenizer.encode("bread")) + 1
    for most, rows in ((length, [0]), (length - 1, [])):
        found = encode.to_judge(["dog"], ["x"], ["bread"], tokenizer, Format(), most)
        assert found.rows == rows
        assert list(found.reasons.values()) == [f"prompt and response are longer than {most} tokens"] * (not rows)
        assert found.responses.shape == (len(rows), 2, 64)
