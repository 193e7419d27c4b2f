"""Answers /readyz from the embedded server, as the real service does; STANDIN_SERVICE says how it misbehaves."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

if os.environ.get("STANDIN_SERVICE") == "dies":
    sys.exit("standin service: told to die")

if os.environ.get("STANDIN_SERVICE") == "refuses":
    print("convscope api: keys.toml is not TOML", flush=True)
    sys.exit(2)

queue = redis.Redis.from_url(os.environ["CONVSCOPE_REDIS_URL"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if os.environ.get("STANDIN_SERVICE") == "talks":
            print(f"{'standin service: ' * 6}\n" * 1000, end="", flush=True)
        workers = int(queue.exists("standin:worker"))
        body = json.dumps({"workers": workers, "starts": queue.llen("standin:starts")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


print("standin service: listening", flush=True)
ThreadingHTTPServer(
    (os.environ.get("CONVSCOPE_HOST", "127.0.0.1"), int(os.environ["CONVSCOPE_PORT"])), Handler
).serve_forever()
