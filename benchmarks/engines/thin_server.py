"""fast-plaid behind the thinnest possible server: the standard library's, which keeps connections.

    python thin_server.py INDEX_FOLDER DIM

Token vectors as the bytes of float32 [Q, DIM] in, numbers of passages as JSON out; the parameters of a search are
those of the address. The library is made for several threads at once, so there is no lock. Tells its port first.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import torch
from fast_plaid import search

FOLDER, DIM = sys.argv[1], int(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    index: Any

    def do_POST(self) -> None:  # as the standard library has it
        vectors = np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), np.float32).reshape(1, -1, DIM)
        point = {name: int(value) for name, value in parse_qsl(urlsplit(self.path).query)}
        (hits,) = self.index.search(torch.from_numpy(vectors.copy()), show_progress=False, **point)
        body = json.dumps([number for number, _ in hits]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Handler.index = search.FastPlaid(index=FOLDER, device="cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
