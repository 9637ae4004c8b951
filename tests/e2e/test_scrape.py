"""A real llama-server's metrics, scraped beside requests and through a real Prometheus server."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import pytest
from llama import llama_server, needs_llama
from servers import free_port, get, post, running, wait_until_ready

from headway.errors import EvidenceError
from headway.probe.keys import Key
from headway.probe.observed import observed
from headway.probe.scrape import Scraper
from headway.probe.scrape_files import from_prometheus

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.probe.nouns import Scrape

pytestmark = needs_llama

PROMPT, OUT, REQUESTS = 50, 20, 4


def ask(url: str, number: int) -> None:
    body = {"prompt": [5] * PROMPT + [number], "n_predict": OUT, "ignore_eos": True, "cache_prompt": False}
    assert post(f"{url}/completion", body)["timings"]["predicted_n"] == OUT


def scraped(scraper: Scraper, work: Callable[[], None]) -> Scrape | None:
    """Scrape in an event loop while the work goes on in a thread."""

    async def run() -> Scrape | None:
        ended, start_s = asyncio.Event(), time.perf_counter()
        task = asyncio.create_task(scraper(lambda: time.perf_counter() - start_s, ended))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(work)
        ended.set()
        return await task

    return asyncio.run(run())


def test_counters_say_what_was_sent() -> None:
    with llama_server() as url:
        scrape = scraped(Scraper(url, interval_s=0.1), lambda: [ask(url, n) for n in range(REQUESTS)] and None)
    assert scrape is not None and scrape.failed == 0
    seen = observed(scrape)
    assert seen.restarted_s == ()
    assert seen.increases["prompt_tokens"] == REQUESTS * (PROMPT + 1)
    assert seen.increases["generation_tokens"] == REQUESTS * OUT
    assert seen.increases["steps"] == pytest.approx(REQUESTS * OUT, abs=REQUESTS)
    assert 0 < seen.increases["decode_busy_s"] + seen.increases["prefill_busy_s"] < seen.end_s
    assert seen.scrapes >= 5


def test_a_server_without_metrics_is_asked_once() -> None:
    with llama_server(endpoint_metrics=False) as url:
        scraper = Scraper(url, interval_s=0.05)
        assert scraped(scraper, lambda: time.sleep(0.4)) is None
    assert scraper.failed == 1
    assert "answers 501" in scraper.problems[0]


@pytest.mark.parametrize("interval_s", [0.05, 120.0], ids=["in the middle", "at the end"])
def test_metrics_that_hang_do_not_hold_up_the_end(interval_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.probe.scrape.LAST_S", 0.3)
    asked = 0

    async def first(exchange: faults.Exchange) -> None:
        nonlocal asked
        asked += 1
        await (faults.told if asked == 1 else faults.hang(None))(exchange)

    async def run(scraper: Scraper) -> Scrape | None:
        ended, start_s = asyncio.Event(), time.perf_counter()
        task = asyncio.create_task(scraper(lambda: time.perf_counter() - start_s, ended))
        while not scraper.pages or (interval_s < 1 and asked < 2):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)
        ended.set()
        return await asyncio.wait_for(task, 20)  # a fetch that hangs is given 30 s, and longer at long intervals

    with llama_server() as url, faults.proxy(url, {"/metrics": first}) as between:
        scraper = Scraper(between.url, interval_s=interval_s)
        scrape = asyncio.run(run(scraper))
    assert scrape is not None and len(scrape.time_s) == 1
    assert scrape.failed == 1 and "within 0.3 s of the end" in scraper.problems[0]


def test_a_page_that_quotes_the_key_is_quoted_without_it() -> None:
    secret = "sk-" + "".join(f"{number:03}Qz" for number in range(34))

    async def quoting(exchange: faults.Exchange) -> None:
        await exchange.head()
        await exchange.send(b"vllm:num_requests_running " + exchange.headers["Authorization"].split()[1].encode())
        await exchange.end()

    with llama_server() as url, faults.proxy(url, {"/metrics": quoting}) as between:
        scraper = Scraper(between.url, interval_s=0.1, key=Key(secret, "test"))
        assert scraped(scraper, lambda: time.sleep(0.3)) is None
    assert "is no exposition" in scraper.problems[0]
    assert not [at for at in range(len(secret) - 8) if secret[at : at + 8] in scraper.problems[0]]


def test_nobody_there_is_counted() -> None:
    scraper = Scraper(f"http://127.0.0.1:{free_port()}", interval_s=0.05)
    assert scraped(scraper, lambda: time.sleep(0.2)) is None
    assert scraper.failed >= 3 and len(scraper.problems) == 1


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs a Prometheus server (Debian: prometheus)")
def test_a_prometheus_server_tells_the_same(tmp_path: Path) -> None:
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    with llama_server() as url:
        config = {"job_name": "llama", "scrape_interval": "200ms", "static_configs": [{"targets": [url[7:]]}]}
        (tmp_path / "prometheus.yml").write_text(f"scrape_configs: [{config}]")
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        log = tmp_path / "log"
        with running(command, log) as process:
            wait_until_ready(f"{server}/-/ready", process, log, 30)
            start_s = time.time()
            while "llamacpp" not in get(f"{server}/api/v1/label/__name__/values") and time.time() < start_s + 20:
                time.sleep(0.2)  # it looks for targets every 5 s
            ask(url, 1)
            time.sleep(1)
            scrape = from_prometheus(server, start_s, time.time(), 0.2, selector='job="llama"')
            with pytest.raises(EvidenceError, match="no metrics"):
                from_prometheus(server, start_s, time.time(), 0.2, selector='job="other"')
    seen = observed(scrape)
    assert seen.increases["generation_tokens"] == OUT
    assert seen.increases["prompt_tokens"] == PROMPT + 1
