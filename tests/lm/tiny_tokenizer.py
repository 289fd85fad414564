"""Tokenizers in the files of a checkpoint, trained on a few words in a blink: byte-level BPE, and other kinds."""

import json
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

END = "<|endoftext|>"
TURN = "<|im_end|>"
CHATML = (
    "{% for message in messages %}\n"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}\n"
    "  {% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "SUBREDDIT: r/relationships\n\nTITLE: My friend and I are at odds\n\nPOST: We went to the sea.\n\nTL;DR: sea trip",
    "Human: how do I bake bread?\n\nAssistant: With flour, water, salt and time.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
]


def write_tokenizer(folder, template=None, **settings):
    """tokenizer.json and tokenizer_config.json; ``settings`` replace the end token that is there by default."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END, "<|im_start|>", TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS * 4, trainer)
    tokenizer.enable_truncation(8)  # as some checkpoints have it; it must not matter
    tokenizer.enable_padding(length=8)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END} | settings
    if template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


LLAMA_3 = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
)
BLANK = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WRITES_BLANKS = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
STRIPS_ONE = decoders.Sequence(
    [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
KINDS = {  # how text is cut before it becomes tokens, how they become text, and what is put around them
    "bytes, as GPT-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), "$A"),
    "bytes, as Llama 3": (
        None,
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(LLAMA_3, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        ),
        decoders.ByteLevel(),
        "<s> $A",
    ),
    "a blank before all, as Llama 2": (
        normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]),
        None,
        STRIPS_ONE,
        "<s> $A",
    ),
    "a blank before the first word, as Mistral": (
        None,
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        STRIPS_ONE,
        "<s> $A",
    ),
    "no blank, as Gemma": (
        normalizers.Replace(" ", BLANK),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        WRITES_BLANKS,
        "<s> $A",
    ),
    "words, as T5": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]),
        decoders.Metaspace(prepend_scheme="always"),
        "$A </s>",
    ),
}


def write_kind(folder, kind, **settings):
    """A tokenizer of one of the ``KINDS``, with tokens <unk>, <s> and </s>; ``settings`` are more settings."""
    normalizer, cut, decoder, around = KINDS[kind]
    special, more = ["<unk>", "<s>", "</s>"], {"show_progress": False}
    if "bytes" in kind:
        tokenizer = Tokenizer(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, **more)
    elif "words" in kind:
        tokenizer = Tokenizer(models.Unigram())
        alphabet = [*string.printable, *"é☃", BLANK]
        trainer = trainers.UnigramTrainer(
            vocab_size=220, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, **more
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special + BYTES, **more)
    sentence_piece = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = cut if "bytes" in kind or "words" in kind else sentence_piece
    tokenizer.train_from_iterator(WORDS * 4, trainer)
    content = json.loads(tokenizer.to_str())  # the trainer takes bytes for special tokens
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, cut, decoder
    numbers = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=numbers)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | named | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
