"""Conversations through a chat template: the text up to where an answer begins, and what the answer becomes."""

from collections.abc import Sequence

from gvgap_jax.lm.data.rendering import Asked
from gvgap_jax.lm.data.tokenizer import Messages, Tokenizer

GOES_ON = "THE-ANSWER-GOES-ON-HERE "
STANDS_HERE = "THE-MESSAGE-STANDS-HERE"
REASONING = ("reasoning_content", "thinking", "reasoning")  # the first of these is what most templates read


def queries(conversations: Sequence[Messages], tokenizer: Tokenizer) -> list[str | ValueError]:
    """The text of each conversation up to where the next answer begins, or why there is none.

    A conversation whose last turn is the assistant's is not closed: an answer goes on with it, as with
    ``continue_final_message`` of transformers. There is none where the template refuses the messages, or does not
    write one of them or what one of their keys says, as many know nothing of calls of tools or of system messages.

    Raises:
      ValueError: as ``Tokenizer.render_batch``.
    """
    wanted = [(row, "") for row in range(len(conversations))]
    wanted += [(row, key) for row, messages in enumerate(conversations) for key in _further_keys(messages)]
    rendered = tokenizer.render_batch([_question(conversations[row], key) for row, key in wanted])
    texts = {
        (row, key): _begun(text, conversations[row], tokenizer)
        for (row, key), text in zip(wanted, rendered, strict=True)
    }
    found = [
        next((_unwritten(key) for key in _further_keys(messages) if texts[row, key] == texts[row, ""]), texts[row, ""])
        for row, messages in enumerate(conversations)
    ]
    return _with_all_messages(conversations, found, tokenizer)


def answers(
    conversations: Sequence[Messages], asked: Sequence[str], said: Sequence[str], tokenizer: Tokenizer
) -> list[str | ValueError]:
    """What the template writes behind each of these texts of ``queries`` when this is the answer, or why there is none.

    There is none where it writes the conversation in another way before the answer, or leaves out a part of the answer,
    as some do with thoughts.

    Raises:
      ValueError: as ``Tokenizer.render_batch``.
    """
    whole = [_answered(messages, answer) for messages, answer in zip(conversations, said, strict=True)]
    return [_rest(*each) for each in zip(asked, tokenizer.render_batch(whole), said, strict=True)]


def _with_all_messages(
    conversations: Sequence[Messages], texts: Sequence[str | ValueError], tokenizer: Tokenizer
) -> list[str | ValueError]:
    """The texts of conversations, but for those that lack a message.

    A template may rewrite a message, as some do with thoughts of earlier turns: another in its place shows that it
    would be written.
    """
    doubtful = [
        (row, place)
        for row, text in enumerate(texts)
        for place, message in enumerate(conversations[row])
        if isinstance(text, str) and not _says(text, message["content"])
    ]
    others = tokenizer.render_batch([_question(_replaced(conversations[row], place), "") for row, place in doubtful])
    found = list(texts)
    for (row, place), other in zip(doubtful, others, strict=True):
        if isinstance(other, str) and STANDS_HERE not in other:
            role = conversations[row][place]["role"]
            found[row] = ValueError(f"has a message of the role {role}, which the chat template does not write")
    return found


def _replaced(messages: Messages, place: int) -> Messages:
    return [*messages[:place], messages[place] | {"content": STANDS_HERE}, *messages[place + 1 :]]


def _says(text: str, content: str) -> bool:
    """Whether a text holds another, whatever the blanks."""
    return content in text or "".join(content.split()) in "".join(text.split())


def _further_keys(messages: Messages) -> list[str]:
    return sorted({key for message in messages for key in message} - {"role", "content"})


def _unwritten(key: str) -> ValueError:
    return ValueError(f"has {key}, which the chat template does not write")


def _goes_on(messages: Messages) -> bool:
    return messages[-1]["role"] == "assistant"


def _question(messages: Messages, without: str) -> Asked:
    """What is rendered to ask for the next answer, without one key of all messages."""
    messages = [{key: value for key, value in message.items() if key != without} for message in messages]
    return _answered(messages, GOES_ON) if _goes_on(messages) else Asked(_named(messages), True)


def _answered(messages: Messages, answer: str) -> Asked:
    if not _goes_on(messages):
        return Asked(_named([*messages, {"role": "assistant", "content": answer}]), False)
    last = messages[-1] | {"content": messages[-1]["content"] + answer}
    return Asked(_named([*messages[:-1], last]), False)


def _named(messages: Messages) -> Messages:
    """Reasoning under all names that templates read, as transformers has it."""
    found = []
    for message in messages:
        reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
        more = {} if reasoning is None else {"thinking": reasoning} | message | {"reasoning_content": reasoning}
        found.append(more or message)
    return found


def _begun(text: str | ValueError, messages: Messages, tokenizer: Tokenizer) -> str | ValueError:
    if isinstance(text, ValueError):
        return text
    if not _goes_on(messages):
        return text.removesuffix(tokenizer.turn.opening)
    place = text.rfind(GOES_ON.strip())
    if place < 0:
        return ValueError("ends with a turn of the assistant that the chat template does not write")
    kept = text[place:].startswith(GOES_ON)  # or the template cuts blanks at the end of a message
    return text[:place] if kept else text[:place].rstrip()


def _rest(asked: str, whole: str | ValueError, said: str) -> str | ValueError:
    if isinstance(whole, ValueError):
        return whole
    if not whole.startswith(asked):
        return ValueError("is not written behind the prompt by the chat template")
    if not _says(whole[len(asked) :], said):
        return ValueError("is not written whole by the chat template: it leaves out a part, such as thoughts")
    return whole[len(asked) :]
