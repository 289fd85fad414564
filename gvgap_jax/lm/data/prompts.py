"""One prompt in its several spellings: the fields of a post, a text, a transcript, messages.

Which is which, as text that people read, and as one key that is the same for all spellings of the same prompt.
"""

import json
import re
import unicodedata

from gvgap_jax.lm.data.formats import TLDR
from gvgap_jax.lm.data.rows import POST
from gvgap_jax.lm.data.tokenizer import Fields, Messages, Prompt

QUESTION, ANSWER = "\n\nHuman:", "\n\nAssistant:"  # Anthropic's HH (arXiv 2204.05862) writes turns so
ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}
_TURN = re.compile(r"(?:^|\n)[^\S\n]*(Human|Assistant|System):")
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")  # no width: a soft hyphen, and marks that editors leave


def post_of(prompt: Prompt) -> Fields | None:
    """The fields of a post, given as fields or written out; None for other prompts."""
    if isinstance(prompt, dict):
        return {name: prompt[name] for name in POST} if set(POST) <= set(prompt) else None
    if not isinstance(prompt, str):
        return None
    try:
        return TLDR.parse(prompt)  # pyright: ignore[reportReturnType]
    except ValueError:
        return _post_with_other_blanks(prompt.strip())


def _post_with_other_blanks(text: str) -> Fields | None:
    subreddit, title, rest = text.partition("\nTITLE:")
    heading, post, body = rest.partition("\nPOST:")
    if not (title and post and subreddit.startswith("SUBREDDIT:") and body.endswith("TL;DR:")):
        return None
    parts = (subreddit.removeprefix("SUBREDDIT:").strip().removeprefix("r/"), heading, body.removesuffix("TL;DR:"))
    return dict(zip(POST, (each.strip() for each in parts), strict=True))


def turns_of(text: str) -> Messages | None:
    """The messages of a transcript that begins with a turn and ends where the assistant answers; else None."""
    said = _turns(text)
    return said[:-1] if len(said) > 1 and said[-1] == {"role": "assistant", "content": ""} else None


def _turns(text: str) -> Messages:
    """All turns of a text that begins with one; none of another text."""
    if not text.lstrip().startswith(("Human:", "System:")):
        return []
    _, *parts = _TURN.split(text)
    return [
        {"role": ROLES[name], "content": content.strip()} for name, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def messages_of(prompt: Prompt) -> Messages:
    """A prompt as messages: the turns of a transcript, or whatever else it is as the user's one message."""
    if isinstance(prompt, list):
        return prompt
    text = readable(prompt)
    return turns_of(text) or [{"role": "user", "content": text}]


def transcript(messages: Messages) -> str:
    """Messages as HH writes them, up to where the assistant answers, or goes on with a last turn of its own.

    "System:" and "Tool:" are written likewise.
    """
    names = {role: name for name, role in ROLES.items()}
    said = [f"\n\n{names.get(each['role'], str(each['role']).capitalize())}: {_said(each)}" for each in messages]
    return "".join(said) + ("" if messages[-1]["role"] == "assistant" else ANSWER)


def readable(prompt: Prompt) -> str:
    """A prompt as a text for people and judges: the user's only message as it is, more messages as a transcript."""
    if isinstance(prompt, list):
        return prompt[0]["content"] if _is_one_text(prompt) else transcript(prompt)
    if isinstance(prompt, str):
        return prompt
    post = post_of(prompt)
    return TLDR.template.format_map(post) if post else "\n\n".join(f"{name}: {text}" for name, text in prompt.items())


def _is_one_text(messages: Messages) -> bool:
    return len(messages) == 1 and set(messages[0]) == {"role", "content"} and messages[0]["role"] == "user"


def canonical(prompt: Prompt) -> str:
    """A key that all spellings of a prompt share.

    A post is the same as fields and written out; one question is the same as a text, a transcript and a message.
    Blanks, their number and kind, marks without width, the composition of characters, system messages and the beginning
    of an answer make no difference.
    """
    said = _but_system(prompt) if isinstance(prompt, list) else [{"role": "user", "content": readable(prompt)}]
    if len(said) == 1:
        said = _but_system(_turns(_said(said[0]))) or said
    said = said[:-1] if len(said) > 1 and _is_begun(said[-1]) else said
    if len(said) == 1:
        return _plain(_said(said[0]))
    return "\n".join(f"{each['role']}: {_plain(_said(each))}" for each in said)


def _is_begun(message: dict) -> bool:
    """Whether it is where the assistant answers, or has begun to."""
    return not _said(message) or (message["role"] == "assistant" and set(message) == {"role", "content"})


def _but_system(messages: Messages) -> Messages:
    return [each for each in messages if each["role"] not in ("system", "developer")] or messages


def _said(message: dict) -> str:
    """The content of a message, and of what stands beside it."""
    beside = {key: value for key, value in message.items() if key not in ("role", "content")}
    return message["content"] + (f" {json.dumps(beside, ensure_ascii=False, sort_keys=True)}" if beside else "")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", _UNSEEN.sub("", text)).split())
