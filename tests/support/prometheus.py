"""A real Prometheus that scrapes one service, with the rules of ``deploy/prometheus``."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from support.documents import ROOT
from support.programs import program

if TYPE_CHECKING:
    from pathlib import Path

READY_S = 60.0
STOP_S = 20.0
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: fivestage
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


class Prometheus:
    """Prometheus for the ``with`` block; alerts fire at once instead of after their ``for``.

    Args:
        port: The service's admin port.
        folder: For its configuration and data.
    """

    def __init__(self, port: int, folder: Path) -> None:
        rules = (ROOT / "deploy/prometheus/rules.yaml").read_text(encoding="utf-8")
        (folder / "rules.yaml").write_text(re.sub(r"for: \w+", "for: 0s", rules), encoding="utf-8")
        (folder / "prometheus.yaml").write_text(CONFIG.format(port=port), encoding="utf-8")
        self._command = [
            program("prometheus"),
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        guard = threading.Timer(READY_S, self._process.kill)
        guard.start()
        try:
            self._address = self._listening()
        finally:
            guard.cancel()
        threading.Thread(target=self._read_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait(STOP_S)

    def _listening(self) -> str:
        """Return the address that its log names, once it is ready; either may come first."""
        assert self._process.stderr is not None
        log = ""
        for line in self._process.stderr:
            log += line
            found = re.search(r'msg="Listening on" address=(\S+)', log)
            if found is not None and "Server is ready to receive web requests" in log:
                return found[1]
        raise AssertionError(f"Prometheus has ended, or was not ready within {READY_S:g} s\n{log}")

    def _read_on(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as log:
            for _ in log:
                pass

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API."""
        address = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as response:
            return json.load(response)["data"]

    def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the values of an expression by their labels."""
        found = self.ask("query", query=expression)["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    def value(self, expression: str) -> float:
        """Return the one value of an expression; NaN if it has none."""
        return next(iter(self.values(expression).values()), float("nan"))

    def firing(self) -> set[str]:
        """Return the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
