"""A judge behind any server that speaks the OpenAI chat protocol: nothing is asked twice, nothing paid is lost."""

import hashlib
import json
import math
import re
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
from anyio.from_thread import start_blocking_portal

from gvgap_jax.lm.judges.client import Refused, client
from gvgap_jax.lm.judges.replies import Answer, Unanswered, reply
from gvgap_jax.lm.judges.secrets import Redaction, check_address, key_in
from gvgap_jax.lm.judges.stored import CACHE, Stored, opened
from gvgap_jax.lm.judges.verdicts import TLDR, Judge, Question, Template, Verdicts, both_orders, of_both_orders
from gvgap_jax.runtime.files import lock_of

REMINDER = "\n\nThe last line of the answer must be one letter and nothing else: A, B or C."
LEAST = {"answer_tokens": 1, "parallel": 1, "max_retries": 0, "temperature": 0, "prompt_price": 0, "answer_price": 0}
REFUSED = "the request was refused"
FLAGGED = r"flagged|moderation|content.?polic"  # what a server says that forbids a prompt, not a key
INSTEAD = {"temperature": None, "max_completion_tokens": "max_tokens"}  # what servers that refuse these are asked with
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
      prefix: of the names of settings in messages, as those who set them know them.

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
    prefix: str = ""

    def __post_init__(self):
        check_address(self.base_url, self.key_variable, self.plain_http, self.prefix)
        for name, bound in LEAST.items():
            if (value := getattr(self, name)) is not None and not bound <= value < math.inf:
                raise ValueError(f"{self.prefix}{name} must be at least {bound}, got {value}.")
        for name in ("timeout", "characters_per_token"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{self.prefix}{name} must be a number above 0, got {value}.")
        if self.cap < math.inf and not self.dollars(1, 1):
            prices = " or ".join(f"{self.prefix}{name}" for name in ("prompt_price", "answer_price"))
            raise ValueError(f"{self.prefix}cap needs a price: {prices}, dollars per million tokens.")

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
    folder, refused = Path(cache_folder), set[str]()

    def judge(questions: Sequence[Question]) -> Verdicts:
        shown, swapped = both_orders(settings.template, questions)
        with opened(folder) as cache, lock_of(folder, CACHE):
            answers = _answers(settings, cache, refused, shown + swapped)
            if answers and all(isinstance(answer, Unanswered) for answer in answers.values()):
                reason = why(answers[shown[0]])
                raise ValueError(f"{settings.model} at {settings.base_url} takes none of the requests: {reason}.")
            unclear = [each for each, answer in answers.items() if answer.unclear]
            again = _answers(settings, cache, refused, [each + REMINDER for each in unclear])
        answers |= {each: again[each + REMINDER] for each in unclear}
        pairs = [(answers[one], answers[other]) for one, other in zip(shown, swapped, strict=True)]
        scores = np.array([[answer.score for answer in pair] for pair in pairs]).reshape(-1, 2)
        reasons = {row: why(each) for row, pair in enumerate(pairs) for each in pair if math.isnan(each.score)}
        return of_both_orders(scores[:, 0], scores[:, 1], reasons)

    def why(answer: Answer | Unanswered) -> str:
        return answer.reason(f"{settings.prefix}answer_tokens")

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
    with opened(Path(cache_folder)) as cache:
        return _usage(settings, cache)


def _answers(
    settings: Endpoint, cache: Stored, refused: set[str], prompts: Iterable[str]
) -> dict[str, Answer | Unanswered]:
    """Answers to distinct prompts, stored ones first; settings that the server has ``refused`` are added to these."""
    stored = {each: cache.find(_key(settings, each)) for each in prompts}
    found: dict[str, Answer | Unanswered] = {each: answer for each, answer in stored.items() if answer}
    missing = [each for each in stored if each not in found]
    return found | (_ask(settings, cache, refused, missing) if missing else {})


def _ask(settings: Endpoint, cache: Stored, refused: set[str], prompts: list[str]) -> dict[str, Answer | Unanswered]:
    """Answers of the server. What is under way is waited for and stored, whatever goes wrong: it is paid."""
    answers: dict[str, Answer | Unanswered] = {}
    flying: dict[Future[Answer | Unanswered], str] = {}
    waiting, known = deque(prompts), set(refused)
    paid = _usage(settings, cache).dollars

    def land(future: Future[Answer | Unanswered]):
        nonlocal paid
        prompt = flying.pop(future)
        answers[prompt] = answer = future.result()
        paid += settings.dollars(answer.prompt_tokens, answer.answer_tokens)
        if isinstance(answer, Answer):
            cache.keep(_key(settings, prompt), settings.base_url.rstrip("/"), settings.model, prompt, answer)

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
                    flying[portal.start_task_soon(_answer, asking, settings, redact, refused, prompt)] = prompt
                if not flying:
                    raise ValueError(
                        f"the next request could exceed the cap of ${settings.cap:g}: {len(answers)} of {len(prompts)} "
                        f"were answered now, and ${paid:.4g} spent in all. {KEPT[:-1]} with a higher "
                        f"{settings.prefix}cap."
                    )
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    land(future)
        finally:
            for future in [each for each in flying if each.exception() is None]:
                land(future)
            _tell(settings, refused - known)
    return answers


async def _answer(
    asking: openai.AsyncOpenAI, settings: Endpoint, redact: Redaction, refused: set[str], prompt: str
) -> Answer | Unanswered:
    """What the server says, asked without the settings that it has refused, of which more may be found."""
    request, left_out, why = _request(settings, prompt), set(refused), None
    while True:
        try:
            raw: Any = await asking.chat.completions.with_raw_response.create(**_without(request, left_out))
            prompt_tokens, _ = _expected_tokens(settings, prompt)
            answer = reply(raw.http_response.content.decode(), prompt_tokens, settings.characters_per_token)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            why = why or f"{REFUSED} ({error.status_code}): {_said(error, redact)}"
            if not (more := (_named(error, prompt) & request.keys()) - left_out):
                return Unanswered(why)
            left_out |= more
            continue
        except openai.PermissionDeniedError as error:
            if re.search(FLAGGED, str(error).lower()):
                return Unanswered(f"{REFUSED} ({error.status_code}): {_said(error, redact)}")
            failure = _explained(error, settings, redact)
        except openai.OpenAIError as error:
            failure = _explained(error, settings, redact)
        except (AttributeError, TypeError, LookupError, ValueError, RecursionError):
            failure = OSError(
                f"what {settings.base_url} answers is no chat completion: does its address end in /v1? {KEPT}"
            )
        else:
            refused.update(left_out)
            texts = {name: text for name, text in answer._asdict().items() if isinstance(text, str)}
            return answer._replace(**{name: redact(_storable(text)) for name, text in texts.items()})
        raise failure  # not from the error, which holds the request and its key


def _storable(text: str) -> str:
    """Without half characters, which JSON can hold and a database cannot."""
    return text.encode(errors="replace").decode()


def _tell(settings: Endpoint, refused: set[str]) -> None:
    """Say what the server is asked without from now on; answers are found under the settings all the same."""
    where, option = f"{settings.model} at {settings.base_url}", f"{settings.prefix}temperature"
    if "temperature" in refused:
        warnings.warn(
            f"{where} takes no temperature of {settings.temperature:g}: it is asked without, and answers at its own; "
            f"{option} None says so.",
            stacklevel=2,
        )
    if "max_completion_tokens" in refused:
        warnings.warn(f"{where} takes no max_completion_tokens: it is asked with max_tokens.", stacklevel=2)


def _named(error: openai.APIStatusError, prompt: str) -> set[str]:
    """Settings that a refusal is about."""
    given = getattr(error, "param", None)
    words = given if isinstance(given, str) and given else str(error).replace(prompt, "")
    return {name for name in INSTEAD if re.search(rf"\b{name}\b", words)}


def _without(request: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """A request as a server takes it that refuses these settings."""
    renamed = {INSTEAD[name] if name in refused else name: value for name, value in request.items()}
    return {name: value for name, value in renamed.items() if name}


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
            return ValueError(
                f"{where} refuses the key in {settings.key_variable} ({error.status_code}). {KEPT} ({said})"
            )
        case openai.NotFoundError():
            return ValueError(f"{where} is not there (404): name another model or address. {KEPT} ({said})")
        case openai.RateLimitError():
            return OSError(
                f"{where} has too many requests, or its account is empty, after {tries} (429): wait, or lower "
                f"{settings.prefix}parallel. {KEPT} ({said})"
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


def _key(settings: Endpoint, prompt: str) -> str:
    asked = [settings.base_url.rstrip("/"), settings.template.name, _request(settings, prompt)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _usage(settings: Endpoint, cache: Stored) -> Usage:
    requests, prompt_tokens, answer_tokens = cache.totals(settings.base_url.rstrip("/"), settings.model)
    return Usage(requests, prompt_tokens, answer_tokens, settings.dollars(prompt_tokens, answer_tokens))
