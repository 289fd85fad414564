"""A byte-level BPE tokenizer in the files of a checkpoint, trained on a few words in a blink."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
