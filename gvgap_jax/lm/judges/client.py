"""A client of servers that speak the OpenAI protocol, which no server can fill or hold up, and which keeps its key.

What a server sends as events is one page here, and a failure that it calls a success has its status.
"""

import zlib
from typing import Any

import anyio
import openai

from gvgap_jax.lm.judges import replies
from gvgap_jax.lm.judges.secrets import Redaction, is_loopback

MOST_BYTES = 4 * 2**20  # of an answer, decompressed
MORE, LEAST = 1.2, 1.0  # a whole answer may take so many times the timeout, and so many seconds more at least
GIVEN_ANEW = ("content-encoding", "content-length", "transfer-encoding")  # headers of the body as it was sent


class Refused(openai.OpenAIError):
    """An answer that is not read to its end; the message goes on after the server's name. It is not asked for again."""


def client(key: str, base_url: str, redact: Redaction, timeout: float, max_retries: int) -> openai.AsyncOpenAI:
    """The client; ``timeout`` in seconds, for each request.

    A server that is silent for so long is asked again, as ``max_retries`` says; one that drips is given up soon after.
    Redirects are not followed.

    Raises:
      ValueError: the address is none.
    """
    # No proxy stands between this machine and itself: it would be sent the key in plain text.
    direct: dict[str, Any] = {"timeout": timeout, "follow_redirects": False, "trust_env": not is_loopback(base_url)}
    http = _Guarded(redact, max(MORE * timeout, timeout + LEAST), **direct)
    # gzip alone: zlib can stop in the middle of what was made to explode.
    options: dict[str, Any] = {"max_retries": max_retries, "default_headers": {"Accept-Encoding": "gzip"}}
    try:
        return openai.AsyncOpenAI(api_key=key, base_url=base_url, timeout=timeout, http_client=http, **options)
    except Exception as error:  # the packages below have their own
        raise ValueError(f"base_url {base_url} is no address: {type(error).__name__}.") from None


class _Guarded(openai.DefaultAsyncHttpxClient):
    def __init__(self, redact: Redaction, seconds: float, **options: Any):
        super().__init__(**options)
        self._redact, self._seconds = redact, seconds

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        del stream  # the whole of it is read here
        try:
            with anyio.fail_after(self._seconds):
                response = await super().send(request, stream=True, **options)
                try:
                    body = await _body(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise Refused(f"has not ended its answer after {self._seconds:g} s") from None
        status, page = replies.honest(response.status_code, replies.whole(body.decode("utf-8-sig", "replace")))
        kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in GIVEN_ANEW]
        return type(response)(
            status,
            headers=[(name, self._redact(value)) for name, value in kept],
            content=self._redact(page).encode(),
            request=request,
        )


async def _body(response: Any) -> bytes:
    """What was sent, decompressed, of which never more than ``MOST_BYTES`` are held."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise Refused("answers in a compression that it was not asked for; it may be none, or gzip")
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding == "gzip" else None
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += unzip.decompress(chunk, MOST_BYTES + 1 - len(body)) if unzip else chunk
            if len(body) > MOST_BYTES:
                raise Refused(f"answers with more than {MOST_BYTES / 2**20:g} MiB")
    except zlib.error:
        raise Refused("answers in a damaged compression") from None
    if unzip and not unzip.eof:
        raise Refused("answers in a damaged compression")
    return bytes(body)
