"""Keys of servers: where they may be sent, and how they are kept out of all that is printed, stored or logged."""

import base64
import contextlib
import html
import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, urlsplit

KEY = "[key]"  # stands where a key was
LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
WORD, SECRET = 4, 8  # letters from which on a key is taken out of texts, and from which on in other writings too


def check_address(base_url: str, key_variable: str, plain_http: bool, prefix: str = "") -> None:
    """Refuse an address that would give a key away, without repeating what may be one.

    ``prefix`` stands before the names of settings in messages.

    Raises:
      ValueError: no http or https, a user, password, query, fragment or the key in the address, plain http to another
        machine unless ``plain_http``, or a key where the name of its variable belongs.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", key_variable):
        raise ValueError(
            f"{prefix}key_variable is no name of an environment variable: put the key into one, such as "
            "OPENAI_API_KEY, and give its name."
        )
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{prefix}base_url is no address; it looks like https://HOST/v1.") from None
    if parts.username is not None or parts.password is not None or "?" in base_url or "#" in base_url:
        raise ValueError(
            f"{prefix}base_url holds a user, a password, a query or a fragment, which would be stored with the "
            f"answers: give the address alone, and the key in the environment variable {key_variable}."
        )
    key = os.environ.get(key_variable, "").strip()
    if len(key) >= SECRET and key in base_url:
        raise ValueError(f"{prefix}base_url holds the key in {key_variable}, and is stored with answers: leave it out.")
    if parts.scheme not in ("http", "https") or not host or not base_url.isprintable() or " " in base_url:
        raise ValueError(
            f"{prefix}base_url is no address of a server, got {base_url[:100]!r}, but like https://HOST/v1."
        )
    if parts.scheme == "http" and not plain_http and not is_loopback(base_url):
        raise ValueError(
            f"{prefix}base_url {base_url} would send the key unencrypted to another machine: use https, or say "
            f"{prefix}plain_http if the network between is trusted."
        )


def is_loopback(base_url: str) -> bool:
    """Whether the address is one of this machine, which nobody else can listen to."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def key_in(key_variable: str, base_url: str) -> str:
    """The key that an environment variable holds.

    Raises:
      ValueError: it holds none, or what no header can carry.
    """
    key = os.environ.get(key_variable, "").strip()
    if not key:
        raise ValueError(
            f"the environment variable {key_variable} holds no key for {base_url}: export it, or name another; for a "
            "server that wants no key, any word will do."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(f"the key in {key_variable} has blanks or letters that no key has: export it anew.")
    return key


class Redaction:
    """Takes a key out of texts, however a server or a proxy has written it down; short words are no secret."""

    def __init__(self, key: str):
        writings = {key} if len(key) >= WORD else set()
        if len(key) >= SECRET:
            writings |= {quote(key, safe=""), quote_plus(key), html.escape(key), key.encode().hex()}
            writings |= _in_base64(key.encode())
        either = "|".join(map(_escaped_or_not, sorted(writings, key=len, reverse=True))) or r"(?!)"
        self._pattern = re.compile(either if len(key) >= SECRET else rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
        self._folded = [_folded(each) for each in writings]

    def __call__(self, text: str) -> str:
        """The text with ``KEY`` in the place of the key."""
        folded = _folded(text)  # a search for so many words is slow, and mostly finds nothing
        return self._pattern.sub(KEY, text) if any(each in folded for each in self._folded) else text

    @contextlib.contextmanager
    def of_logs(self) -> Iterator[None]:
        """Meanwhile the records of the packages that speak to servers have no key."""

        def without_key(record: logging.LogRecord) -> bool:
            record.msg, record.args = self(record.getMessage()), ()
            return True

        known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in LOGGERS]
        for name in known:
            logging.getLogger(name).addFilter(without_key)
        try:
            yield
        finally:
            for name in known:
                logging.getLogger(name).removeFilter(without_key)


def _folded(text: str) -> str:
    return text.lower().replace("\\", "")


def _escaped_or_not(text: str) -> str:
    """A pattern of the text in which JSON, or a text that shows another, may have put backslashes before signs."""
    return "".join(each if each.isalnum() else r"\\*" + re.escape(each) for each in text if each != "\\")


def _in_base64(key: bytes) -> set[str]:
    """What base64 makes of the key wherever it begins: without the letters that its neighbours have a share in."""
    found = set()
    for before in range(3):
        text = base64.b64encode(bytes(before) + key).decode()
        whole = text[-(-8 * before // 6) : 8 * (before + len(key)) // 6]
        found |= {whole, whole.replace("+", "-").replace("/", "_")}
    return found
