"""An issuer of OAUTHBEARER tokens that Kafka's own test validator accepts."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


def token(subject: str, life_s: float) -> str:
    """Return an unsigned token, which brokers in production reject."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + life_s})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, ""])


class Issuer:
    """Answers ``POST`` like an OAuth token endpoint, or misbehaves on request."""

    def __init__(self, subject: str, life_s: float) -> None:
        self.issued = 0
        self.asked: list[tuple[str, str]] = []
        """Each request's Authorization and body."""
        self.answer: tuple[int, bytes] | None = None
        """The response instead of a token."""
        self.hanging = threading.Event()
        self.released = threading.Event()
        self._changed = threading.Condition()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                issuer.asked.append((self.headers.get("Authorization", ""), body))
                if issuer.hanging.is_set():
                    issuer.released.wait(60)
                fields = {"access_token": token(subject, life_s), "expires_in": life_s}
                status, said = issuer.answer or (200, json.dumps(fields).encode())
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                issuer._count()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def _count(self) -> None:
        with self._changed:
            self.issued += 1
            self._changed.notify_all()

    def wait_until_issued(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until this many tokens were issued."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.issued >= count, limit_s), self.issued

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
