"""A server on this machine that answers requests by a rule, and what it may answer."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self):
        self.body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self.server.seen.append(self.headers)
        self.server.asked.append(self.body)
        self.close_connection = True
        with contextlib.suppress(OSError):  # whoever asked has gone
            self.server.rule(self)

    do_GET = do_POST  # noqa: N815

    def send(self, body, status=200, **headers):
        self.send_response(status)
        given = {"Content_Length": str(len(body)), "Content_Type": "application/json", "Connection": "close"} | headers
        for name, value in given.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def answer(text: Any = "A", finish: Any = "stop", **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]} | more)


@contextlib.contextmanager
def serving(rule) -> Iterator[Any]:
    server: Any
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.rule, server.seen, server.asked = rule, [], []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
