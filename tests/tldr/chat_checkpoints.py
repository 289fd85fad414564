"""Small random checkpoints with chat templates, as Qwen 3 and Gemma 3 have them, and a file of messages for them."""

import json

import jax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from gvgap_jax.lm.hf import architectures, save
from gvgap_jax.lm.model import transformer

QWEN3 = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
KINDS = {  # fields of config.json, special tokens, further settings of the tokenizer, and the ends of responses
    "qwen3": (
        {
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
            "max_position_embeddings": 512, "rope_theta": 1e6, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        },
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "chat_template": QWEN3},
        ["<|im_end|>", "<|endoftext|>"],
    ),
    "gemma3": (
        {
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 32,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16,
            "intermediate_size": 48, "max_position_embeddings": 512, "sliding_window": 16, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": [*5 * ["sliding_attention"], "full_attention"],
        },
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>", "chat_template": GEMMA3},
        ["<eos>", "<end_of_turn>"],
    ),
}  # fmt: skip
THINGS = ["rose", "cat", "boat", "lamp", "drum", "hill", "coin", "fish"]
ANSWERS = ["It is a {}.", "A {} is a thing that one can see.", "I like the {} and its colour.", "No."]


def write_checkpoint(folder, kind):
    """A checkpoint of a kind: random weights, tokenizer, chat template, and the settings of generation."""
    fields, special, settings, ends = KINDS[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(row["chosen"]) for row in conversations(60)], trainer)
    if settings["bos_token"]:
        start = settings["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    config = fields | {"vocab_size": tokenizer.get_vocab_size() + 4}  # rounded up, as real ones
    shape = architectures.shape_of(config)
    save.save(folder, config, transformer.init(shape, shape.vocabulary, jax.random.key(0)))
    tokenizer.save(str(folder / "tokenizer.json"))
    template = settings.pop("chat_template") if kind == "gemma3" else None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (folder / "chat_template.jinja").write_text(template)
        settings["chat_template"] = template
    numbers = [tokenizer.token_to_id(end) for end in ends]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": numbers}))
    return folder


def conversations(number):
    """Rows of chosen and rejected conversations of one or two turns, some with a system message."""
    rows = []
    for row in range(number):
        thing, other = THINGS[row % len(THINGS)], THINGS[(row // len(THINGS) + 1) % len(THINGS)]
        asked = [{"role": "user", "content": f"Question {row}: what is a {thing} beside a {other}?"}]
        if row % 3 == 1:
            asked = [*asked, {"role": "assistant", "content": "Which one?"}, {"role": "user", "content": f"No. {row}."}]
        good, bad = ANSWERS[row % 3].format(thing), ANSWERS[(row + 1) % 4].format(other)
        sides = ([*asked, {"role": "assistant", "content": text}] for text in (good, bad))
        rows.append(dict(zip(("chosen", "rejected"), sides, strict=True)))
    return rows


def write_messages(folder, number=120):
    """comparisons.jsonl, and demonstrations.jsonl that have the chosen answers."""
    rows = conversations(number)
    (folder / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [{"messages": row["chosen"]} for row in rows]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    return folder / "comparisons.jsonl", folder / "demonstrations.jsonl"
