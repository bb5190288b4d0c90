"""The unthrottled origin: nginx with one worker, plain or with TLS under a CA made for the occasion."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.wire import NGINX_LOG_FORMAT, Served, parse_nginx

START_S = 10.0
MARKS_MAX = 500  # tries, 10 ms apart, to see the end of the log

CONFIG = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log warn; {user}
events {{ worker_connections 1024; }}
http {{
  log_format bench '{log_format}';
  access_log {home}/access.log bench;
  sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 100000; default_type application/octet-stream;
  client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
  server {{ listen 127.0.0.1:{plain}; root {root}; location = /mark {{ return 204; }} }}
  server {{
    listen 127.0.0.1:{tls} ssl; root {root};
    ssl_certificate {home}/leaf.pem; ssl_certificate_key {home}/leaf.key; ssl_protocols TLSv1.2 TLSv1.3;
  }}
}}
"""


def is_here() -> bool:
    """Whether nginx and openssl are installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is not None and bool(shutil.which("openssl"))


class Nginx:
    """Use as a context manager: `base` and `tls_base` are its addresses, `ca` the certificate to trust."""

    def __init__(self, root: Path, home: Path) -> None:
        self._root = root.absolute()
        self._home = home.absolute()
        self._marks = 0

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        self._log = self._home / "access.log"
        self._log.unlink(missing_ok=True)  # an earlier benchmark's runs had the same numbers
        self.ca = _make_certificates(self._home)
        plain, tls = _free_ports()
        self.base, self.tls_base = f"http://127.0.0.1:{plain}", f"https://localhost:{tls}"
        config = self._home / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # the work directory may be for its owner only
        config.write_text(
            CONFIG.format(
                home=self._home, root=self._root, plain=plain, tls=tls, log_format=NGINX_LOG_FORMAT, user=user
            )
        )
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") or "nginx"
        self._process = subprocess.Popen([program, "-c", str(config), "-e", str(self._home / "error.log")])
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"nginx did not start: {(self._home / 'error.log').read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def begin(self, run: int) -> None:
        """Nothing to reset: addresses carry the run."""

    def served(self, run: int) -> list[Served]:
        """The log of a run whose client has ended: everything up to a mark that is asked for now."""
        self._marks += 1
        mark = f"/mark?run={-1000 - self._marks}"
        urllib.request.urlopen(self.base + mark).close()
        for _ in range(MARKS_MAX):
            lines = self._log.read_text().splitlines()
            if any(mark in line for line in lines[-20:]):
                break
            time.sleep(0.01)
        return [one for one in map(parse_nginx, lines) if one.run == run]

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.base + "/mark").close()
        except OSError:
            return False
        return True


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def _make_certificates(home: Path) -> Path:
    """A CA and a certificate for localhost. A certificate that is its own CA is refused by rustls."""
    ca, names = home / "ca.pem", home / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for command in (
        ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=benchmark CA"),
        ("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=localhost"),
        ("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
         "-extfile", "names", "-out", "leaf.pem"),
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=home, check=True, capture_output=True)
    return ca
