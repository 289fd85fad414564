"""A world of posts and summaries that one can run on a laptop: data, tokenizer, checkpoint, and a gold verifier.

It has the shape of TL;DR: posts with a subreddit and a title, human summaries, comparisons of two summaries. What
makes a summary good is known: it names the post's subject and its feeling, and it is short.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gvgap_jax.lm.hf import architectures, save
from gvgap_jax.lm.model import shape, transformer
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import processes, sealed

SUBJECTS = ("boss", "sister", "roommate", "dog", "landlord", "girlfriend", "brother", "teacher")
FEELINGS = ("angry", "sad", "scared", "jealous", "happy", "guilty")
EVENTS = ("ate my lunch", "sold the car", "moved out", "forgot my birthday", "lied to me", "lost the keys")
FILLERS = ("we met last year", "it rained all day", "the house is small", "nobody else knows", "i work at night")
SUBREDDITS = ("relationships", "tifu", "advice")
SUMMARIES = (  # from what says all, shortly, to what says nothing
    "my {subject} {event} , i am {feeling}",
    "my {subject} {event}",
    "i am {feeling}",
    "{event} and now i am {feeling} because of my {subject} and i do not know what to do",
    "i do not know what to do",
    "my {other} {event} , i am {feeling}",
    "my {subject} {event} , i am {wrong}",
    "{filler} and {filler}",
)
WORDS, LONG = 8, 0.3  # words that cost nothing, and what every further one costs
END = "<|endoftext|>"
OWN_TOKENS = 2048  # at most, of a tokenizer that is trained on other texts than the world's
SEAL = "digests.json"
DEMONSTRATIONS, COMPARISONS = 1600, 2400


def gold(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Reward [N] of the summaries: 2 for the subject, 1 for the feeling, less for others and for length."""
    return np.array([_reward(prompt, response.split()) for prompt, response in zip(prompts, responses, strict=True)])


def _reward(prompt: str, words: Sequence[str]) -> float:
    there = set(prompt.split())
    subject = 2.0 * _named(SUBJECTS, there, words)
    return subject + _named(FEELINGS, there, words) - LONG * max(0, len(words) - WORDS)


def _named(choices: Sequence[str], there: set[str], words: Sequence[str]) -> float:
    """1 if the words name the one of the choices that is there, -1 if they name others alone."""
    said = {word for word in words if word in choices}
    return float(bool(said & there)) if not said or said & there else -1.0


def write(folder: Path, seed: int = 0) -> None:
    """Write ``comparisons.jsonl``, ``demonstrations.jsonl`` and the checkpoint ``model``, all of them or nothing.

    Every process of a run calls this, and the first one writes.
    """
    part = folder.with_name(f".{folder.name}.part")
    processes.in_first(lambda: _write_data(part, seed))
    write_model(part / "model")
    processes.in_first(lambda: _finish(part, folder))


def write_own(folder: Path, texts: Sequence[str]) -> None:
    """Write a checkpoint ``model`` of the same size whose tokenizer is trained on these texts, in any order.

    It reads every text: what is in no word of its own is spelled out in bytes. Called as ``write`` is.
    """
    part = folder.with_name(f".{folder.name}.part")
    processes.in_first(lambda: shutil.rmtree(part, ignore_errors=True))
    write_model(part / "model", tokenizer=_trained(texts))
    processes.in_first(lambda: _finish(part, folder))


def _finish(part: Path, folder: Path) -> None:
    sealed.seal(part, part / SEAL)
    part.replace(folder)


def _trained(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=OWN_TOKENS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return tokenizer


def _write_data(part: Path, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left
    part.mkdir(parents=True)
    _write_lines(part / "demonstrations.jsonl", [_demonstration(numbers) for _ in range(DEMONSTRATIONS)])
    _write_lines(part / "comparisons.jsonl", [_comparison(numbers) for _ in range(COMPARISONS)])


def _write_lines(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _demonstration(numbers: np.random.Generator) -> dict:
    post, facts = _post(numbers)
    better = numbers.choice(len(SUMMARIES), p=np.array([8, 3, 3, 2, 2, 1, 1, 0]) / 20)
    return post | {"summary": SUMMARIES[better].format(**facts)}


def _comparison(numbers: np.random.Generator) -> dict:
    """Two different summaries of one post, labelled by a Bradley-Terry human with the gold reward."""
    post, facts = _post(numbers)
    texts = [SUMMARIES[kind].format(**facts) for kind in numbers.choice(len(SUMMARIES), size=2, replace=False)]
    first, second = gold([post["post"]] * 2, texts)
    choice = int(numbers.random() > 1 / (1 + np.exp(second - first)))
    summaries = [{"text": text} for text in texts]
    return {"info": post, "summaries": summaries, "choice": choice, "reference": SUMMARIES[0].format(**facts)}


def _post(numbers: np.random.Generator) -> tuple[dict, dict]:
    subject, other = numbers.choice(SUBJECTS, size=2, replace=False)
    feeling, wrong = numbers.choice(FEELINGS, size=2, replace=False)
    event, filler = numbers.choice(EVENTS), numbers.choice(FILLERS)
    facts = {"subject": subject, "other": other, "feeling": feeling, "wrong": wrong, "event": event, "filler": filler}
    post = f"so {numbers.choice(FILLERS)} . then my {subject} {event} . {filler} . i am {feeling} ."
    return {"subreddit": str(numbers.choice(SUBREDDITS)), "title": f"what about my {subject}", "post": post}, facts


def shape_of_model(layers: int = 2, width: int = 64, tokens: int | None = None) -> Shape:
    """A GPT-NeoX that knows so many tokens; the words of the world, if left out."""
    return shape.neox(tokens or _tokenizer().get_vocab_size(), layers, width, 4, start=False)


def write_model(folder: Path, layers: int = 2, width: int = 64, tokenizer: Tokenizer | None = None) -> None:
    """Write that GPT-NeoX with random parameters, as a checkpoint with its tokenizer; called as ``write`` is."""
    tokenizer = tokenizer or _tokenizer()
    random = shape_of_model(layers, width, tokenizer.get_vocab_size())
    params = transformer.init(random, random.vocabulary, jax.random.key(0))
    save.save(folder, architectures.config_of(random), params)
    processes.in_first(lambda: _write_tokenizer(folder, tokenizer))


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}), encoding="utf-8")


def _tokenizer() -> Tokenizer:
    """Words with the space before them are tokens."""
    texts = [*SUBJECTS, *FEELINGS, *EVENTS, *FILLERS, *SUMMARIES, "so then because of what about . , and"]
    names = ["SUBREDDIT:", "TITLE:", "POST:", "TL;DR:", "r", "/", *SUBREDDITS]
    words = {word for text in texts for word in text.split() if "{" not in word} | set(names)
    pieces = sorted(words | {f" {word}" for word in words})
    vocabulary = {piece: number for number, piece in enumerate([END, "<unknown>", "\n", *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|/| ?[^\s/]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END])
    return tokenizer
