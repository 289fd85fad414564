"""Text that a tokenizer does not know: measured, warned of, and refused, whichever model of tokens it has."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gvgap_jax.lm.data import encode, unknown
from gvgap_jax.lm.data.formats import Format
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import Tokenizer

END, UNKNOWN = "<end>", "<unk>"
WORDS = [f"word{number}" for number in range(99)]
HOW = Format(response_tokens=1000)


def word_level():
    return models.WordLevel({word: number for number, word in enumerate([END, UNKNOWN, *WORDS])}, unk_token=UNKNOWN)


def word_piece():
    return models.WordPiece({word: number for number, word in enumerate([END, UNKNOWN, *WORDS])}, unk_token=UNKNOWN)


def unigram():
    return models.Unigram([(END, 0.0), (UNKNOWN, 0.0), *((word, -1.0) for word in WORDS)], unk_id=1)


def pairs_with_unknown():
    vocabulary = [END, UNKNOWN, *sorted({letter for word in WORDS for letter in word})]
    return models.BPE({piece: number for number, piece in enumerate(vocabulary)}, [], unk_token=UNKNOWN)


def opened(model):
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([END])
    return Tokenizer(inner, end=inner.get_vocab()[END], size=inner.get_vocab_size())


def in_bytes():
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(WORDS, trainer)
    return Tokenizer(inner, end=inner.get_vocab()[END], size=inner.get_vocab_size())


every_model = pytest.mark.parametrize("model", [word_level, word_piece, unigram, pairs_with_unknown])


def text_with(share):
    """A hundred words, of which so many are unknown."""
    strange = int(100 * share)
    return " ".join(["ßßß"] * strange + [WORDS[number % 99] for number in range(100 - strange)])


@every_model
def test_text_of_other_words_is_refused_with_examples(model):
    rows = [Demonstration("word1", text_with(0.9))]
    with pytest.raises(ValueError, match=r"of the tokens of responses are unknown to the tokenizer \(such as 'ß"):
        encode.demonstrations(rows, opened(model()), HOW)


@every_model
def test_known_words_say_nothing(model):
    assert len(encode.demonstrations([Demonstration("word1", text_with(0))], opened(model()), HOW).rows) == 1


@pytest.mark.parametrize(
    ("share", "ends"), [(0.0, ""), (0.01, ""), (0.02, "warned"), (0.1, "warned"), (0.11, "refused")]
)
@pytest.mark.parametrize("kind", ["prompt", "chosen", "rejected", "response"])
def test_the_share_is_that_of_each_kind_of_text(share, ends, kind, recwarn):
    text = {"prompt": "word1", "chosen": "word2", "rejected": "word3", "response": "word4"} | {kind: text_with(share)}
    tokenizer = opened(word_level())

    def encoded():
        if kind == "response":
            return encode.demonstrations([Demonstration(text["prompt"], text["response"])], tokenizer, HOW)
        return encode.preferences([Comparison(text["prompt"], text["chosen"], text["rejected"])], tokenizer, HOW)

    if ends == "refused":
        with pytest.raises(ValueError, match=r"11\.0% of the tokens of .* more than 10%: choose a checkpoint"):
            encoded()
    elif ends == "warned":
        with pytest.warns(UserWarning, match=rf"{share:.1%} of the tokens of {kind}.* \(such as 'ßßß'\)"):
            encoded()
    else:
        encoded()


def test_bytes_spell_everything():
    tokenizer = in_bytes()
    assert tokenizer.unknown is None
    found = encode.demonstrations([Demonstration("漢字 ß", "ßßß 🙂")], tokenizer, HOW)
    assert tokenizer.decode_batch(found.data.responses) == ["ßßß 🙂"]


def test_what_a_model_has_said_is_not_measured():
    rows = [Comparison("word1", text_with(0.9), "word2")]
    assert len(encode.preferences(rows, opened(word_level()), HOW, sampled=True).rows) == 1


def test_examples_are_few_and_different():
    counted = unknown.Counted(tokenizer := opened(word_level()))
    for number in range(50):
        text = f"strange{number} strange0 word1"
        counted.add([text], tokenizer.encode_batch([text]))
    with pytest.raises(ValueError, match=r"such as 'strange0', 'strange1', 'strange2', 'strange3', 'strange4'\)"):
        counted.check("prompts")
