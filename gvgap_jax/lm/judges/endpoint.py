"""A judge behind any server that speaks the OpenAI chat protocol: nothing is asked twice, nothing paid is lost."""

import contextlib
import hashlib
import json
import math
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
from anyio.from_thread import start_blocking_portal

from gvgap_jax.lm.judges.client import Refused, client
from gvgap_jax.lm.judges.secrets import Redaction, check_address, key_in
from gvgap_jax.lm.judges.verdicts import (
    LETTERS,
    TLDR,
    Judge,
    Question,
    Template,
    Verdicts,
    both_orders,
    letter,
    of_both_orders,
)
from gvgap_jax.runtime.files import explained, lock_of

CACHE = "answers.sqlite"
TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, base_url TEXT, model TEXT, prompt TEXT, text TEXT, "
    "finish TEXT, prompt_tokens INTEGER, answer_tokens INTEGER) WITHOUT ROWID"
)
REMINDER = "\n\nThe last line of the answer must be one letter and nothing else: A, B or C."
REFUSED = "the request was refused"
MOST_TOKENS = 10**9  # that a server may have counted
KEPT = "All answers so far are kept; run again to go on."


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server, and what may be spent on it.

    Attributes:
      model, base_url: as the server names the model, and its address, which mostly ends in /v1; no key is in it.
      key_variable: environment variable that holds the key; a server that wants none takes any word.
      template: how a question is put.
      temperature: None to leave it to the server; some models take no other than their own.
      answer_tokens: most tokens of an answer, thoughts included.
      parallel: requests at a time.
      timeout: seconds for each of them; an answer that has begun may take a fifth more, and a second at least.
      max_retries: after 408, 409, 429, 5xx or no answer; waits double from 0.5 to 8 s, or are what the server says.
      prompt_price, answer_price: dollars per million tokens.
      cap: dollars that all the answers of this model in a cache folder may cost, those of earlier calls included.
      characters_per_token: to estimate prompts before they are counted by the server.
      plain_http: send the key unencrypted to another machine where the address says http.

    Raises:
      ValueError: sizes below 1, negative prices, a cap without prices, or an address that would give the key away.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    template: Template = TLDR
    temperature: float | None = 0.0
    answer_tokens: int = 256
    parallel: int = 16
    timeout: float = 60.0
    max_retries: int = 6
    prompt_price: float = 0.0
    answer_price: float = 0.0
    cap: float = math.inf
    characters_per_token: float = 4.0
    plain_http: bool = False

    def __post_init__(self):
        check_address(self.base_url, self.key_variable, self.plain_http)
        if min(self.answer_tokens, self.parallel, self.max_retries + 1) < 1:
            raise ValueError("Endpoint: answer_tokens and parallel must be at least 1, max_retries at least 0.")
        if min(self.timeout, self.characters_per_token) <= 0:
            raise ValueError("Endpoint: timeout and characters_per_token must be above 0.")
        if min(self.prompt_price, self.answer_price) < 0 or (self.cap < math.inf and not self.dollars(1, 1)):
            raise ValueError("Endpoint: prices are dollars per million tokens, at least 0; a cap needs one above 0.")

    def dollars(self, prompt_tokens: int, answer_tokens: int) -> float:
        """What tokens cost."""
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6


class Usage(NamedTuple):
    """Requests that were answered, or would be, their tokens, and dollars at an endpoint's prices."""

    requests: int
    prompt_tokens: int
    answer_tokens: int
    dollars: float


def endpoint(settings: Endpoint, cache_folder: str | Path) -> Judge:
    """The judge who asks a model in both orders: a response wins where both say so, and is as good where they differ.

    An answer without a letter is asked for once more, with a reminder. Answers are stored in ``cache_folder`` (local)
    as they come, and outlive a killed process; calls that share the folder wait for each other.

    Raises:
      ValueError: by the judge: the key is missing or refused, the model is unknown, every request is refused, the cap
        is reached, or the template shows references that are not there.
      OSError: the server cannot be reached or fails after all retries, or the folder cannot be written.
    """
    folder = Path(cache_folder)

    def judge(questions: Sequence[Question]) -> Verdicts:
        shown, swapped = both_orders(settings.template, questions)
        with _opened(folder) as cache, lock_of(folder, CACHE):
            answers = _answers(settings, cache, shown + swapped)
            if answers and all(answer.refused for answer in answers.values()):
                reason = answers[shown[0]].reason
                raise ValueError(f"{settings.model} at {settings.base_url} takes none of the requests: {reason}.")
            unclear = [each for each, answer in answers.items() if answer.unclear]
            again = _answers(settings, cache, [each + REMINDER for each in unclear])
        answers |= {each: again[each + REMINDER] for each in unclear}
        pairs = [(answers[one], answers[other]) for one, other in zip(shown, swapped, strict=True)]
        scores = np.array([[answer.score for answer in pair] for pair in pairs]).reshape(-1, 2)
        reasons = {row: each.reason for row, pair in enumerate(pairs) for each in pair if math.isnan(each.score)}
        return of_both_orders(scores[:, 0], scores[:, 1], reasons)

    return judge


def cost_estimate(questions: Sequence[Question], settings: Endpoint) -> Usage:
    """At most this is asked and paid before any reminder, were nothing stored yet; prompts by their characters.

    Raises:
      ValueError: the template shows references that are not there.
    """
    shown, swapped = both_orders(settings.template, questions)
    expected = [_expected_tokens(settings, each) for each in set(shown + swapped)]
    prompt_tokens, answer_tokens = (sum(each[kind] for each in expected) for kind in (0, 1))
    return Usage(len(expected), prompt_tokens, answer_tokens, settings.dollars(prompt_tokens, answer_tokens))


def spent(settings: Endpoint, cache_folder: str | Path) -> Usage:
    """What all the stored answers of this model cost, at these prices; may be read while a judge is at work."""
    with _opened(Path(cache_folder)) as cache:
        return _usage(settings, cache)


class _Answer(NamedTuple):
    text: str
    finish: str  # as the server says why it ended; or that the request was refused, and why
    prompt_tokens: int
    answer_tokens: int

    @property
    def refused(self) -> bool:
        return self.finish.startswith(REFUSED)

    @property
    def score(self) -> float:
        """Of what is shown first; NaN without a letter. What was cut off may end with a letter by chance."""
        return LETTERS.get(letter(self.text) or "", math.nan) if self.finish != "length" else math.nan

    @property
    def unclear(self) -> bool:
        return math.isnan(self.score) and not self.refused

    @property
    def reason(self) -> str:
        if self.refused:
            return self.finish
        if self.finish == "length":
            return f"the answer was cut off after {self.answer_tokens} tokens: allow more answer_tokens"
        return f"the answer ends {self.text[-60:]!r}, which is not A, B or C"


def _answers(settings: Endpoint, cache: sqlite3.Connection, prompts: Iterable[str]) -> dict[str, _Answer]:
    """Answers to distinct prompts, stored ones first."""
    stored = {each: _find(settings, cache, each) for each in prompts}
    found = {each: answer for each, answer in stored.items() if answer}
    missing = [each for each in stored if each not in found]
    return found | (_ask(settings, cache, missing) if missing else {})


def _ask(settings: Endpoint, cache: sqlite3.Connection, prompts: list[str]) -> dict[str, _Answer]:
    """Answers of the server. What is under way is waited for and stored, whatever goes wrong: it is paid."""
    answers: dict[str, _Answer] = {}
    flying: dict[Future[_Answer], str] = {}
    waiting = deque(prompts)
    paid = _usage(settings, cache).dollars

    def land(future: Future[_Answer]):
        nonlocal paid
        prompt = flying.pop(future)
        answers[prompt] = answer = future.result()
        paid += settings.dollars(answer.prompt_tokens, answer.answer_tokens)
        if not answer.refused:
            _keep(settings, cache, prompt, answer)

    def next_fits() -> bool:
        under_way = [_expected_tokens(settings, each) for each in (waiting[0], *flying.values())]
        return paid + sum(settings.dollars(*tokens) for tokens in under_way) <= settings.cap * (1 + 1e-9)

    key = key_in(settings.key_variable, settings.base_url)
    redact = Redaction(key)
    asking = client(key, settings.base_url, redact, settings.timeout, settings.max_retries)
    with redact.of_logs(), start_blocking_portal() as portal, portal.wrap_async_context_manager(asking):
        try:
            while waiting or flying:
                while waiting and len(flying) < settings.parallel and next_fits():
                    prompt = waiting.popleft()
                    flying[portal.start_task_soon(_answer, asking, settings, redact, prompt)] = prompt
                if not flying:
                    raise ValueError(
                        f"the next request could exceed the cap of ${settings.cap:g}: {len(answers)} of {len(prompts)} "
                        f"were answered now, and ${paid:.4g} spent in all. {KEPT[:-1]} with a higher cap."
                    )
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    land(future)
        finally:
            for future in [each for each in flying if each.exception() is None]:
                land(future)
    return answers


async def _answer(asking: openai.AsyncOpenAI, settings: Endpoint, redact: Redaction, prompt: str) -> _Answer:
    try:
        response: Any = await asking.chat.completions.create(**_request(settings, prompt))
        choice, text = response.choices[0], response.choices[0].message.content or ""
        finish, usage = choice.finish_reason or "", response.usage
        if not isinstance(text, str) or not isinstance(finish, str):
            raise TypeError("no text")
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        return _Answer("", f"{REFUSED} ({error.status_code}): {_said(error, redact)}", 0, 0)
    except openai.OpenAIError as error:
        failure = _explained(error, settings, redact)
    except (AttributeError, TypeError, LookupError, ValueError, RecursionError):
        failure = OSError(
            f"what {settings.base_url} answers is no chat completion: does its address end in /v1? {KEPT}"
        )
    else:
        text, finish = (redact(each.encode(errors="replace").decode()) for each in (text, finish))
        return _Answer(text, finish, *_counted(usage) or _estimated(settings, prompt, text))
    raise failure  # not from the error, which holds the request and its key


def _counted(usage: Any) -> tuple[int, int] | None:
    counts: Any = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return counts if all(type(count) is int and 0 <= count < MOST_TOKENS for count in counts) else None


def _estimated(settings: Endpoint, prompt: str, text: str) -> tuple[int, int]:
    return _expected_tokens(settings, prompt)[0], math.ceil(len(text) / settings.characters_per_token)


def _request(settings: Endpoint, prompt: str) -> dict[str, Any]:
    request = {
        "model": settings.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_completion_tokens": settings.answer_tokens,
    }
    return request if settings.temperature is None else request | {"temperature": settings.temperature}


def _explained(error: openai.OpenAIError, settings: Endpoint, redact: Redaction) -> Exception:
    where, said = f"{settings.model} at {settings.base_url}", _said(error, redact)
    tries = f"{settings.max_retries + 1} tries"
    match error:
        case Refused():
            return OSError(f"{where} {said}. {KEPT}")
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return ValueError(f"{where} refuses the key in {settings.key_variable} ({error.status_code}). {KEPT}")
        case openai.NotFoundError():
            return ValueError(f"{where} is not there (404): name another model or address. {KEPT} ({said})")
        case openai.RateLimitError():
            return OSError(
                f"{where} has too many requests, or its account is empty, after {tries} (429): wait, or lower "
                f"parallel. {KEPT} ({said})"
            )
        case openai.APIStatusError() if 300 <= error.status_code < 400:
            there = redact(str(error.response.headers.get("location"))).partition("?")[0][:200]
            return ValueError(f"{where} redirects to {there}, where no key is sent: give that address. {KEPT}")
        case openai.APITimeoutError():
            return OSError(f"{where} did not answer within {settings.timeout:g} s, in {tries}. {KEPT}")
        case openai.APIConnectionError():
            return OSError(f"{where} cannot be reached, in {tries}: is the server up, the address right? {KEPT}")
    return OSError(f"{where} failed. {KEPT} ({said})")


def _said(error: openai.OpenAIError, redact: Redaction) -> str:
    return " ".join(redact(str(error)).split())[:200]  # in this order: half a key is a key


def _expected_tokens(settings: Endpoint, prompt: str) -> tuple[int, int]:
    return math.ceil(len(prompt) / settings.characters_per_token), settings.answer_tokens


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """The stored answers; one thread of a process uses them, and every statement is a transaction."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(folder / CACHE, isolation_level=None)) as cache:
            cache.execute("PRAGMA journal_mode=WAL")
            cache.execute(TABLE)
            yield cache
    except sqlite3.Error as error:
        raise OSError(f"{folder / CACHE} cannot keep answers: {error}. Free space, or move that file away.") from error


def _key(settings: Endpoint, prompt: str) -> str:
    asked = [settings.base_url.rstrip("/"), settings.template.name, _request(settings, prompt)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _find(settings: Endpoint, cache: sqlite3.Connection, prompt: str) -> _Answer | None:
    columns = ", ".join(_Answer._fields)
    row = cache.execute(f"SELECT {columns} FROM answers WHERE key = ?", [_key(settings, prompt)]).fetchone()
    return _Answer(*row) if row else None


def _keep(settings: Endpoint, cache: sqlite3.Connection, prompt: str, answer: _Answer) -> None:
    row = [_key(settings, prompt), settings.base_url.rstrip("/"), settings.model, prompt, *answer]
    cache.execute(f"INSERT INTO answers VALUES ({', '.join('?' * len(row))})", row)


def _usage(settings: Endpoint, cache: sqlite3.Connection) -> Usage:
    totals = "SELECT COUNT(*), TOTAL(prompt_tokens), TOTAL(answer_tokens) FROM answers WHERE base_url = ? AND model = ?"
    found = cache.execute(totals, [settings.base_url.rstrip("/"), settings.model]).fetchone()
    requests, prompt_tokens, answer_tokens = map(int, found)
    return Usage(requests, prompt_tokens, answer_tokens, settings.dollars(prompt_tokens, answer_tokens))
