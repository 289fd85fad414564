"""What a server's page says: an answer in the ways that servers write one, or a failure that it calls a success."""

import json
import math
import re
from typing import Any, NamedTuple, TypeGuard

from gvgap_jax.lm.judges.verdicts import LETTERS, after_thoughts, letter

CUT = ("length", "max_tokens", "max_output_tokens", "model_length")  # finish reasons, in small letters, of servers
FILTERED = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist")
REFUSAL = "refusal"  # ours, where a message has a refusal in the place of its text
FAILURES = (  # status that an error means which has none, by its words
    (429, r"rate.?limit|too many requests|quota"),
    (503, r"overload|unavailable|capacity|temporar|time.?out|timed out|try again|busy|server.?error|broke off"),
)
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys under which servers keep thoughts apart
MOST_TOKENS = 10**9  # that a server may have counted


class Answer(NamedTuple):
    """What a model said, which is paid for.

    Attributes:
      text: with its thoughts, in ``<think>`` and ``</think>`` where the server keeps them apart.
      finish: why it ended, as the server says.
      prompt_tokens, answer_tokens: as the server counts them, or estimated.
    """

    text: str
    finish: str
    prompt_tokens: int
    answer_tokens: int

    @property
    def score(self) -> float:
        """Of what is shown first; NaN without a letter. What was stopped may end with a letter by chance."""
        return math.nan if self._stopped else LETTERS.get(letter(self.text) or "", math.nan)

    @property
    def unclear(self) -> bool:
        """Whether a reminder may help."""
        return math.isnan(self.score) and not self._stopped

    @property
    def _stopped(self) -> bool:
        return self.finish.lower() in (*CUT, *FILTERED, REFUSAL)

    def reason(self, answer_tokens: str) -> str:
        """Why it decides nothing; ``answer_tokens`` names the setting."""
        said = after_thoughts(self.text)
        if self.finish.lower() in CUT:
            where = "" if said.strip() else " in its thoughts" if self.text.strip() else " before its first word"
            return f"the answer was cut off{where} after {self.answer_tokens} tokens: allow more {answer_tokens}"
        if self.finish.lower() in FILTERED:
            return f"the answer was stopped by the server's filter ({self.finish})"
        if self.finish == REFUSAL:
            return f"the model refuses: {self.text[:60]!r}"
        if self.text.strip() and not said.strip():
            return "the answer has thoughts, and nothing after them"
        return f"the answer ends {said[-60:]!r}, which is not A, B or C"


class Unanswered(NamedTuple):
    """A request without an answer: it decides nothing and is not stored, so that another run asks again.

    Attributes:
      why: in words.
      prompt_tokens, answer_tokens: that it cost nevertheless.
    """

    why: str
    prompt_tokens: int = 0
    answer_tokens: int = 0

    @property
    def score(self) -> float:
        """None."""
        return math.nan

    @property
    def unclear(self) -> bool:
        """A reminder would not help."""
        return False

    def reason(self, answer_tokens: str) -> str:
        """Why there is none."""
        del answer_tokens
        return self.why


def reply(page: str, prompt_tokens: int, characters_per_token: float) -> Answer | Unanswered:
    """What a page says.

    Args:
      page: as ``whole`` leaves it.
      prompt_tokens: of the prompt, where the server does not count.
      characters_per_token: of the answer, there.

    Raises:
      ValueError, TypeError, LookupError, RecursionError: it is no chat completion.
    """
    found = json.loads(page)
    choices, counted = found["choices"], _counted(found.get("usage"))
    if choices is not None and not isinstance(choices, list):
        raise TypeError("no choices")
    try:
        text, finish = _said(choices[0] if choices else None)
    except ValueError as error:
        return Unanswered(f"the server sent no answer: {error}", *counted or ())
    return Answer(text, finish, *counted or (prompt_tokens, math.ceil(len(text) / characters_per_token)))


def whole(page: str) -> str:
    """A page as it is, or one page of what was sent as events (a server that streams without being asked).

    Comments before it, by which a server shows that it is alive, are left out.
    """
    page = re.sub(r"^(\s*:.*(\n|$))+", "", page)
    if not re.match(r"\s*(data|event|id|retry)?:", page):
        return page
    lines = (line.removeprefix("data:").strip() for line in re.split(r"[\r\n]+", page) if line.startswith("data:"))
    message: dict[str, str] = {}
    finish, usage, done = None, None, False
    for line in filter(None, lines):
        if line == "[DONE]":
            done = True
            continue
        try:
            event = json.loads(line)
            if _error_in(event):
                return line
            choice = (event.get("choices") or [{}])[0]
            for name, part in (choice.get("delta") or choice.get("message") or {}).items():
                if name in ("content", REFUSAL, *THOUGHTS) and part is not None:
                    message[name] = message.get(name, "") + _text(part)
            finish, usage = choice.get("finish_reason") or finish, event.get("usage") or usage
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return page
    if not (done or finish):
        return json.dumps({"error": {"message": "the answer broke off", "code": 503}})
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


def honest(status: int, page: str) -> tuple[int, str]:
    """Status and page of an answer, or of a failure, also of one that a server has called a success.

    A failure is an object ``error`` with a message, however the server has put it.
    """
    try:
        found = json.loads(page)
        error = _error_in(found) or (found if status >= 400 else None)
    except (ValueError, RecursionError):
        error = page.strip() if status >= 400 else None
    if not error:
        return status, page
    code = str(error.get("code") or error.get("status") or "") if isinstance(error, dict) else ""
    words = error if isinstance(error, str) else json.dumps(error)
    meant = next((number for number, pattern in FAILURES if re.search(pattern, words.lower())), 400)
    meant = int(code) if re.fullmatch(r"[45]\d\d", code) else meant
    given = error if isinstance(error, dict) and isinstance(error.get("message"), str) else {"message": words}
    return status if status >= 400 else meant, json.dumps({"error": given})


def _error_in(found: Any) -> Any:
    """The error object of a page, of its first choice, or that the page itself is; None if there is none."""
    if not isinstance(found, dict):
        return None
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    return found.get("error") or choice.get("error") or (found if found.get("object") == "error" else None)


def _said(choice: Any) -> tuple[str, str]:
    """Text and finish reason of a choice; ValueError, in words, if it holds no text."""
    if not isinstance(choice, dict):
        raise ValueError("it has no choices")
    message, finish = choice.get("message"), choice.get("finish_reason") or ""
    if not isinstance(message, dict):
        raise ValueError(f"its message is {json.dumps(message)[:60]}")
    if not isinstance(finish, str):
        raise ValueError(f"its finish reason is {json.dumps(finish)[:60]}")
    text, refusal = _text(message.get("content")), message.get(REFUSAL)
    if not text and isinstance(refusal, str) and refusal:
        return refusal, REFUSAL
    if not text and finish.lower() == "error":
        raise ValueError("it ended with an error")
    thoughts = next((each for each in map(message.get, THOUGHTS) if isinstance(each, str) and each), "")
    return (f"<think>{thoughts}</think>{text}" if thoughts else text), finish


def _text(content: Any) -> str:
    """Text as it stands or in parts, whose thoughts are left out; ValueError, in words, for anything else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"its text is {json.dumps(content)[:60]}")
    parts = [{"text": part} if isinstance(part, str) else part for part in content]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"its text is {json.dumps(content)[:60]}")
    texts = (part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text"))
    return "".join(text for text in texts if isinstance(text, str))


def _counted(usage: Any) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer; None where there are none, as a prompt has at least one.

    Some servers count thoughts, which are paid for, in the total alone.
    """
    given = usage if isinstance(usage, dict) else {}
    prompt, answer, total = (given.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    if not (_is_count(prompt) and _is_count(answer) and prompt):
        return None
    return prompt, max(answer, total - prompt if _is_count(total) else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < MOST_TOKENS
