"""Answers that are paid for, in a file of SQLite: every one is there as soon as it has come."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gvgap_jax.lm.judges.replies import Answer
from gvgap_jax.runtime.files import explained

CACHE = "answers.sqlite"
TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, base_url TEXT, model TEXT, prompt TEXT, text TEXT, "
    "finish TEXT, prompt_tokens INTEGER, answer_tokens INTEGER) WITHOUT ROWID"
)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator["Stored"]:
    """The stored answers of a folder; one thread of a process uses them, and every statement is a transaction.

    Raises:
      OSError: they cannot be read or written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(folder / CACHE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(TABLE)
            yield Stored(connection)
    except sqlite3.Error as error:
        raise OSError(f"{folder / CACHE} cannot keep answers: {error}. Free space, or move that file away.") from error


class Stored:
    """Answers by the keys of what was asked."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    def find(self, key: str) -> Answer | None:
        """The answer that is stored under a key."""
        columns = ", ".join(Answer._fields)
        row = self._connection.execute(f"SELECT {columns} FROM answers WHERE key = ?", [key]).fetchone()
        return Answer(*row) if row else None

    def keep(self, key: str, base_url: str, model: str, prompt: str, answer: Answer) -> None:
        """Store an answer under a key."""
        row = [key, base_url, model, prompt, *answer]
        self._connection.execute(f"INSERT INTO answers VALUES ({', '.join('?' * len(row))})", row)

    def totals(self, base_url: str, model: str) -> tuple[int, int, int]:
        """Answers of a model, and the tokens of their prompts and of themselves."""
        totals = (
            "SELECT COUNT(*), TOTAL(prompt_tokens), TOTAL(answer_tokens) FROM answers WHERE base_url = ? AND model = ?"
        )
        answers, prompt_tokens, answer_tokens = self._connection.execute(totals, [base_url, model]).fetchone()
        return answers, int(prompt_tokens), int(answer_tokens)
