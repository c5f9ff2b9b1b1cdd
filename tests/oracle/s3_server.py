"""An S3 server (moto) with one bucket named `lake`. Fails each n-th request with 503, as services do.

Prints its address, returns the requests so far at `/seen`, and ends with its standard input. After `/hold?N` the N-th
request from then on, and those after it, wait until `/release`; `/held` returns whether one waits.
"""

import json
import sys
import threading

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

fail_every = int(sys.argv[1])


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


class Flaky:
    def __init__(self, app):
        self.app = app
        self.seen = []
        self.lock = threading.Lock()
        self.counting = False
        self.open = threading.Event()
        self.open.set()
        self.hold_at = 0

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/seen":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.seen).encode()]
        if environ["PATH_INFO"] in ("/hold", "/held", "/release"):
            return self.control(environ, start_response)
        kind = environ["REQUEST_METHOD"] + (" part" if "partNumber" in environ["QUERY_STRING"] else "")
        with self.lock:
            fails = self.counting and (len(self.seen) + 1) % fail_every == 0
            if self.counting:
                self.seen.append("failed" if fails else kind)
            if self.hold_at and len(self.seen) >= self.hold_at:
                self.open.clear()
        if not self.open.wait(60):
            raise TimeoutError("a held request was not released")
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)

    def control(self, environ, start_response):
        with self.lock:
            match environ["PATH_INFO"]:
                case "/hold":
                    self.hold_at = len(self.seen) + int(environ["QUERY_STRING"])
                case "/release":
                    self.hold_at = 0
                    self.open.set()
            held = not self.open.is_set()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(held).encode()]


app = Flaky(DomainDispatcherApplication(create_backend_app))
server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.port}"
boto3.client(
    "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
).create_bucket(Bucket="lake")
app.counting = True
print(address, flush=True)
sys.stdin.read()
