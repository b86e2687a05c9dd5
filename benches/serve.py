#!/usr/bin/env python3
"""Load the HTTP example, check every answer, and measure its memory and speed.

    python3 benches/serve.py SERVE MODEL [--provider NAME] [--requests N] [--clients N]

SERVE is the program built from examples/serve.rs. First, the script asks for the verdict on each image alone.
Then the clients ask concurrently, half of them over one connection each, half over a new connection for each
request. Of 1,000 requests, 870 are images, which must get the verdict they got alone; 40 are malformed (422),
30 oversized (413), 30 trickle in but in time (200), 5 trickle too slowly (408), and 25 clients disconnect in
the middle of a body. A client asks again after a 503. At the end, the service gets SIGTERM while the clients
continue: whoever has read `100 Continue` must get an answer, and the service must exit with 0. Prints
resident memory after each quarter, requests per second, and latencies of the images that do not trickle.
Fails on a lost, wrong or crossed answer. Needs Linux and Python 3.11.
"""

import asyncio
import json
import random
import signal
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).resolve().parent.parent
# The example's limits.
BODY_LIMIT = 8 << 20
READ_LIMIT = 10
TOLERANCE = 1e-4
# Seconds after which an answer counts as lost.
PATIENCE = 60
# Weights of the kinds of requests, in thousandths.
MIX = {"image": 870, "malformed": 40, "oversized": 30, "trickling": 30, "slow": 5, "disconnecting": 25}
STATUS = {"image": 200, "malformed": 422, "oversized": 413, "trickling": 200, "slow": 408}


def images() -> list[bytes]:
    """JPEG, PNG and PPM files, from 2 KB to 1.5 MB."""
    jpeg = sorted((ROOT / "tests/golden/images").glob("*.jpg"))
    png = sorted((ROOT / "examples/demo/textures").rglob("*.png"))
    values = (ROOT / "examples/demo/cifar-10-batches-bin/test_batch.bin").read_bytes()

    def ppm(width: int, height: int, start: int) -> bytes:
        return b"P6 %d %d 255\n" % (width, height) + values[start : start + 3 * width * height]

    small = [ppm(32, 32, 3073 * number) for number in range(200)]
    large = [ppm(500, 375, 0), ppm(640, 800, 0), ppm(768, 640, 0)]
    return [file.read_bytes() for file in jpeg + png] + small + large


def show(what: str, value):
    print(f"{what:28}{value}", flush=True)


class Connection:
    """An HTTP/1.1 connection to the service."""

    def __init__(self, port: int):
        self.port, self.reader, self.writer = port, None, None

    async def open(self):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def send(self, length: int, body: bytes = b"", headers: str = ""):
        head = f"POST /score HTTP/1.1\r\nhost: serve\r\ncontent-length: {length}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self) -> tuple[int, dict]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        if status == 100:
            return status, {}
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        body = await self.reader.readexactly(length)
        body = json.loads(body) if body.startswith(b"{") else {}
        if "connection: close" in head:
            self.close()
        return status, body


class Load:
    def __init__(self, port: int, process: int, requests: int):
        self.port, self.process, self.requests = port, process, requests
        self.images = images()
        self.alone: list[dict] = []
        self.started = self.ended = self.again = 0
        self.answers, self.faults = Counter(), Counter()
        self.latencies = {True: [], False: []}
        self.is_over = False

    async def ask_alone(self):
        connection = Connection(self.port)
        for image in self.images:
            await connection.open()
            connection.send(len(image), image)
            status, verdict = await connection.answer()
            assert status == 200, verdict
            self.alone.append(verdict)
        connection.close()

    def is_right(self, number: int, verdict: dict) -> bool:
        alone = self.alone[number]
        near = abs(verdict.get("score", float("inf")) - alone["score"]) < TOLERANCE
        return near and all(verdict[key] == alone[key] for key in ("class", "unknown", "threshold"))

    async def client(self, seed: int, keeps: bool):
        chance, connection = random.Random(seed), Connection(self.port)
        while self.started < self.requests:
            self.started += 1
            kind = chance.choices(list(MIX), list(MIX.values()))[0]
            number = chance.randrange(len(self.images))
            while True:
                try:
                    start = time.perf_counter()
                    async with asyncio.timeout(PATIENCE):
                        await connection.open()
                        answer = await self.ask(connection, kind, number, chance)
                    taken = time.perf_counter() - start
                except (OSError, EOFError) as error:
                    self.faults[f"{kind}: lost: {type(error).__name__}"] += 1
                    answer = None
                    connection.close()
                if not keeps:
                    connection.close()
                if answer is None or answer[0] != 503:
                    break
                self.again += 1
                await asyncio.sleep(chance.uniform(0, 0.1))
            if answer:
                status, verdict = answer
                self.answers[f"{kind} {status}"] += 1
                if status != STATUS[kind]:
                    self.faults[f"{kind}: {status}: {verdict}"] += 1
                elif status == 200 and not self.is_right(number, verdict):
                    self.faults[f"{kind}: crossed"] += 1
                elif kind == "image":
                    self.latencies[keeps].append(taken)
            self.ended += 1
            if self.ended % (self.requests // 4) == 0:
                self.show_memory(f"after {self.ended} requests")
        connection.close()

    async def ask(self, connection: Connection, kind: str, number: int, chance: random.Random):
        body = self.images[number]
        if kind == "malformed":
            body = chance.choice([b"", chance.randbytes(5000), self.images[0][:2000], b"\x89PNG\r\n\x1a\n" + bytes(99)])
        elif kind == "oversized":
            body = bytes(BODY_LIMIT + 1 + chance.randrange(BODY_LIMIT))
        elif kind == "trickling":
            connection.send(len(body))
            for start in range(0, len(body), len(body) // 4):
                await asyncio.sleep(chance.uniform(0, 0.5))
                connection.writer.write(body[start : start + len(body) // 4])
            return await connection.answer()
        elif kind == "slow":
            connection.send(len(body), body[:-1])
            await asyncio.sleep(READ_LIMIT)
            answer = await connection.answer()
            connection.close()
            return answer
        elif kind == "disconnecting":
            connection.send(len(body), body[: chance.randrange(len(body))])
            await connection.writer.drain()
            connection.close()
            return None
        connection.send(len(body), body)
        return await connection.answer()

    async def client_at_the_end(self, seed: int):
        """Asks until the service is gone."""
        chance, connection = random.Random(seed), Connection(self.port)
        while True:
            number = chance.randrange(len(self.images))
            body, accepted = self.images[number], False
            try:
                async with asyncio.timeout(PATIENCE):
                    await connection.open()
                    connection.send(len(body), headers="expect: 100-continue\r\n")
                    status, verdict = await connection.answer()
                    if accepted := status == 100:
                        connection.writer.write(body)
                        status, verdict = await connection.answer()
            except (OSError, EOFError):
                if accepted:
                    self.faults["shutdown: accepted and lost"] += 1
                elif self.is_over:
                    return
                else:
                    self.faults["shutdown: lost before the signal"] += 1
                connection.close()
                continue
            if self.is_over:
                self.answers["after SIGTERM"] += 1
            if status != 503 and not (status == 200 and self.is_right(number, verdict)):
                self.faults[f"shutdown: {status}: {verdict}"] += 1

    def show_memory(self, when: str):
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        figures = dict(line.split(":", 1) for line in lines)
        resident, peak = (int(figures[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM"))
        show(when, f"{resident} MiB, peak {peak} MiB, {figures['Threads'].strip()} threads")


async def main(args) -> int:
    command = [args.serve, args.model, args.provider, "127.0.0.1:0"]
    service = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        line = (await service.stdout.readline()).decode()
        port = int(line.split("/")[2].split(":")[1])
        load = Load(port, service.pid, args.requests)
        print(line.strip().split(" on ", 1)[1])
        load.show_memory("start")
        await load.ask_alone()
        load.show_memory("after each image alone")
        start = time.perf_counter()
        await asyncio.gather(*(load.client(seed, seed % 2 == 0) for seed in range(args.clients)))
        taken = time.perf_counter() - start
        show("requests/s", f"{args.requests / taken:.0f}")
        for keeps, name in ((True, "p50, p99 kept connections"), (False, "p50, p99 new connections")):
            cuts = quantiles(load.latencies[keeps], n=100)
            show(name, f"{1000 * cuts[49]:.0f} ms, {1000 * cuts[98]:.0f} ms")
        show("asked again after 503", load.again)

        clients = asyncio.gather(*(load.client_at_the_end(seed) for seed in range(args.clients)))
        await asyncio.sleep(1)
        load.is_over = True
        service.send_signal(signal.SIGTERM)
        start = time.perf_counter()
        await asyncio.wait_for(clients, 60)
        code = await asyncio.wait_for(service.wait(), 60)
        show("shutdown", f"{1000 * (time.perf_counter() - start):.0f} ms, exit code {code}")
        if code != 0:
            load.faults[f"shutdown: exit code {code}"] += 1
    finally:
        if service.returncode is None:
            service.kill()
    for answer, count in sorted(load.answers.items()):
        show(answer, count)
    for fault, count in load.faults.items():
        print(f"{count} x {fault}", file=sys.stderr)
    return 1 if load.faults else 0


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=50)
    sys.exit(asyncio.run(main(parser.parse_args())))
