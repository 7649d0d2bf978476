"""A small OpenAI-compatible server that can do everything wrong, by the name of the model that is asked for."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLAN = "1: Who built it?\n2: What for?\n3 <- 1, 2: Was it worth it?\n\n"
JSON_PLAN = json.dumps(
    {"parts": [{"id": i, "needs": n, "ask": a} for i, n, a in ((1, [], "Who?"), (2, [], "Why?"), (3, [1, 2], "So?"))]}
)
KEY = "PLATO_TEST_KEY"  # the variable that holds SECRET
SECRET = "sk-very-secret-value"
ANSWER = "It is a long tale of a harbour"


class BadServer:
    """`seen` are the requests' bodies, `cut` counts connections that the client closed, `headers` those of the last."""

    def __init__(self, owner="somebody", models=("good",), room=0):
        self.seen, self.cut, self.busy, self.headers = [], 0, 0, {}
        self.owner, self.models, self.room = owner, models, room
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                if outer.models is None:
                    return self.say(404, {"error": {"message": "no list here"}})
                item = {"object": "model", "owned_by": outer.owner} | (
                    {"max_model_len": outer.room} if outer.room else {}
                )
                return self.say(200, {"data": [{"id": m} | item for m in outer.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                outer.headers = dict(self.headers)
                try:
                    outer.answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    outer.cut += 1

            def say(self, status, item, **headers):
                data = item if isinstance(item, bytes) else json.dumps(item).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def event(self, item):
                data = item if isinstance(item, str) else json.dumps(item)
                self.wfile.write(f"data: {data}\n\n".encode())
                self.wfile.flush()

            def begin(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def answer(self, h, body):
        kind = body["model"]
        status = {"error500": 500, "error401": 401, "error404": 404, "error400": 400}.get(kind)
        if status:
            return h.say(status, {"error": {"message": f"nothing with {h.headers.get('Authorization', '')}"}})
        if kind in ("busy", "busy once"):
            self.busy += 1
            if kind == "busy" or self.busy == 1:
                return h.say(429, {"error": {"message": "slow down"}}, Retry_After="0")
        for name in ("response_format", "temperature", "max_tokens", "stop"):
            if kind == f"no {name}" and name in body:
                return h.say(400, {"error": {"message": f"Unsupported parameter: '{name}'"}})
        if kind == "too long":
            return h.say(400, {"error": {"message": "maximum context length is 10, lower max_tokens"}})
        if kind == "html":
            return h.say(200, b"<html>hello</html>", Content_Type="text/html")
        if kind == "no stream":
            usage = {"prompt_tokens": 9, "completion_tokens": 4}
            choice = {"message": {"content": self.text(body)}, "finish_reason": "stop"}
            return h.say(200, {"choices": [choice], "usage": usage})
        return self.stream(h, body, kind)

    def text(self, body):
        last = body["messages"][-1]["content"]
        if "Reply with one word only" in last:
            return "A"
        if "response_format" in body or ("I split" in last and "as JSON" in last):
            return JSON_PLAN
        return PLAN if "I split" in last else ANSWER

    def stream(self, h, body, kind):
        h.begin()
        if kind == "silent":
            time.sleep(3)
        h.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        words = {
            "endless": ["x "] * 10**6,
            "stops": ["One.", "\n", "\nPart", " 2: more"],
            "halves": ["A ", "\ud83d", "\ude00", " and ", "\ude00", "\ud83d"],  # two of one character, two of none
        }.get(kind)
        words = words or self.text(body).replace(" ", " \0").split("\0")
        limit = body.get("max_tokens", 10**6)
        for k, word in enumerate(words):
            if kind in ("slow", "endless"):
                time.sleep(0.02)
            if k == 3 and not self.spoil(h, kind):
                return
            if k >= limit and kind != "endless":
                break
            h.event({"choices": [{"delta": {"content": word}}]})
        self.end(h, body, kind, len(words), limit)

    def spoil(self, h, kind):
        """Something wrong in the middle; False ends the stream there."""
        if kind == "reset":
            h.connection.close()
        if kind == "broken":
            h.event('{"choices": [{"delta": {"content": "wo')
        if kind == "error":
            h.event({"error": {"message": "out of memory"}})
        if kind == "odd":
            for odd in ({"choices": []}, {"choices": [{"delta": {}}]}, {"choices": [{"delta": {"content": None}}]}):
                h.event(odd)
            h.event({"choices": [{"delta": {"content": 7}}], "usage": {"prompt_tokens": "many"}})
            h.event({"choices": [{"delta": None}], "usage": []})
        if kind == "pings":
            for _ in range(100):
                h.wfile.write(b": still here\n\n")
                h.wfile.flush()
                time.sleep(0.05)
        return kind not in ("cut", "reset")

    def end(self, h, body, kind, words, limit):
        """Why it ends, the usage, and the last event; or some of that."""
        if kind == "no line end":
            h.wfile.write(b"data: " + b"x" * (3 << 20))
            return
        if kind != "no finish":
            reason = "content_filter" if kind == "filter" else "stop" if words <= limit else "length"
            h.event({"choices": [{"delta": {}, "finish_reason": reason}]})
        if kind == "no done":
            return
        if "stream_options" in body and kind != "no usage":
            tokens = min(words, limit) + (2 if kind == "pairs" else 0)
            details = {"cached_tokens": 16}
            usage = {"prompt_tokens": 40, "completion_tokens": tokens, "prompt_tokens_details": details}
            h.event({"choices": [], "usage": usage})
        h.event("[DONE]")
