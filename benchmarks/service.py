"""The service under load, and beside the bare editor.

    python benchmarks/service.py overhead [--edits 20] [--model nano] [--preview]
    python benchmarks/service.py load [--users 8] [--seconds 60]      (pip install '.[load]')
    python benchmarks/service.py first [--rounds 3] [--steps 8]

`overhead` does the same edits with `Editor` in this process, each judged, signed and written to a file, and
through the API of a service with one worker, each submitted, polled for and downloaded, in turn; prints
seconds of both, their ratio, and which process used the processor. `load` has users submit, poll and
download with locust for so long; prints requests accepted, edits a minute, the queue's own overhead for
each edit (from when a worker was free and the edit there, to its end, less the editor's seconds), and
memory. `first` starts a service anew each round, waits until it says that it is ready, and times its first
three edits, one after the other, of other pictures by other words.
"""

import argparse
import base64
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
from PIL import Image
from sqlalchemy import func, select

import openkontext
from openkontext.request import EditRequest
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "scene.png"
PROMPT = "make it night"
POLL_SECONDS = 0.25
"""How often a client asks; each time takes a few milliseconds of the processor that edits."""


class Running:
    """`openkontext serve` with one worker, in a temporary folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.database = f"sqlite:///{folder / 'service.db'}"
        environment = os.environ | {
            "OPENKONTEXT_DATA": str(folder),
            "OPENKONTEXT_PORT": "0",
            "OPENKONTEXT_MODEL": options.model,
            "OPENKONTEXT_DATABASE_URL": options.database_url or self.database,
            "OPENKONTEXT_REQUESTS_PER_MINUTE": "1000000",
            "OPENKONTEXT_CONCURRENCY": "1000",
        }
        self.database = environment["OPENKONTEXT_DATABASE_URL"]
        command = [sys.executable, "-m", "openkontext", "serve"]
        log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http" not in line:
            sys.exit((folder / "log").read_text())
        self.url = line.split()[3]
        self.client = httpx2.Client(base_url=self.url, timeout=600)
        self.client.post("/v1/consent", json={"version": "1"}).raise_for_status()

    def _roles(self) -> Iterator[tuple[str, psutil.Process]]:
        """Its processes by their role; a helper of one, such as what decodes uploads, by the same."""
        for child in psutil.Process(self.process.pid).children():
            line = child.cmdline()
            role = line[line.index("--role") + 1] if "--role" in line else "?"
            yield from ((role, each) for each in (child, *child.children(recursive=True)))

    def memory(self) -> dict[str, float]:
        """MiB of each process of its own pages, by role."""
        found: dict[str, float] = {}
        for role, process in self._roles():
            with suppress(psutil.Error):  # what decodes an upload may be gone
                found[role] = found.get(role, 0) + process.memory_full_info().uss / 2**20
        return found

    def processor(self) -> Counter[str]:
        """Seconds of the processor that each role has used, and this process."""
        used: Counter[str] = Counter({"client": time.process_time()})
        for role, process in self._roles():
            with suppress(psutil.Error):
                times = process.cpu_times()
                used[role] += times.user + times.system + times.children_user + times.children_system
        return used

    def wait(self, id: str, seconds: float = POLL_SECONDS) -> dict[str, Any]:
        """The result of a task, asked for as often."""
        while True:
            answer = self.client.get("/v1/get_result", params={"id": id}).json()
            if answer["status"] != "Pending":
                return answer
            time.sleep(seconds)


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Running]:
    """A service, ended afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        service = Running(Path(folder), options)
        try:
            yield service
        finally:
            service.process.terminate()
            service.process.wait()


def overhead(options: argparse.Namespace) -> None:
    """The same edits bare and through the service."""
    picture = PICTURE.read_bytes()
    editor = openkontext.load(options.model)

    def bare(folder: Path, count: int) -> float:
        begun = time.perf_counter()
        for seed in range(count):
            result = editor.run(
                EditRequest(prompt=PROMPT, image=picture, seed=seed, num_inference_steps=options.steps)
            )
            result.save(folder / f"{seed}-{begun}.png")
        return time.perf_counter() - begun

    with running(options) as service, tempfile.TemporaryDirectory() as folder:
        inputs = {
            "prompt": PROMPT,
            "input_image": base64.b64encode(picture).decode(),
            "steps": options.steps,
            "preview": options.preview,
            "safety_tolerance": 6,  # so that both are judged by the deployment's profile alone
        }

        def served(count: int) -> float:
            begun = time.perf_counter()
            ids = []
            for seed in range(count):
                answer = service.client.post("/v1/flux-kontext-dev", json=inputs | {"seed": seed})
                answer.raise_for_status()
                ids.append(answer.json()["id"])
            for id in ids:
                done = service.wait(id)
                service.client.get(done["result"]["sample"]).raise_for_status()
            return time.perf_counter() - begun

        bare(Path(folder), 1), served(1)
        rounds, used, alone = [], Counter[str](), 0.0
        for _ in range(options.rounds):
            before = time.process_time()
            one = bare(Path(folder), options.edits)
            alone += time.process_time() - before
            start = service.processor()
            rounds.append((one, served(options.edits)))
            used += service.processor() - start
    one, other = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.model}; "
        f"medians of {options.rounds} rounds in turn, {options.edits} edits each"
    )
    print(f"bare editor {one:7.2f} s\nservice     {other:7.2f} s\nratio       {ratio:7.3f}")
    edits = options.rounds * options.edits
    each = ", ".join(f"{role} {1000 * seconds / edits:.0f}" for role, seconds in used.most_common())
    print(f"processor   {1000 * alone / edits:.0f} ms an edit bare; served: {each}")


def load(options: argparse.Namespace) -> None:
    """Users on the service for a while."""
    with running(options) as service:
        service.wait(service.client.post("/v1/flux-kontext-dev", json={"prompt": PROMPT}).json()["id"])
        memory: list[dict[str, float]] = [service.memory()]
        ending = threading.Event()

        def watch() -> None:
            while not ending.wait(min(15, options.seconds / 6)):
                memory.append(service.memory())

        watching = threading.Thread(target=watch)
        watching.start()
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))]
            command += ["--headless", "--host", service.url, "-u", str(options.users), "-r", "4"]
            command += ["-t", f"{options.seconds}s", "--csv", f"{folder}/load", "--json", "--only-summary"]
            environment = os.environ | ({"STEPS": str(options.steps)} if options.steps else {})
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        ending.set()
        watching.join()
        if not done.stdout.strip().startswith("["):
            sys.exit(done.stderr)
        requests = {f"{line['method']} {line['name']}": line for line in json.loads(done.stdout)}
        database = Database(service.database)
        with database.reading() as session:
            finished = session.scalars(
                select(Job).where(Job.state == JobState.READY).order_by(Job.started)
            ).all()
            states = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        database.close()

    own, free = [], 0.0
    for job in finished[1:]:
        assert job.finished is not None
        assert job.result is not None
        own.append(job.finished - max(job.created, free) - job.result["seconds"])
        free = job.finished
    span = (finished[-1].finished or 0) - finished[1].created
    p50, p95 = (statistics.quantiles(own, n=20)[index] for index in (9, 18))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.model}, "
        f"{'PostgreSQL' if 'postgres' in service.database else 'SQLite'}; "
        f"{options.users} users for {options.seconds} s, 1 worker, {options.steps or 'default'} steps"
    )
    print(f"edits       {len(own)} done, {60 * len(own) / span:.1f} a minute; at the end {states}")
    print(f"queue       overhead per edit p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms")
    for name, line in requests.items():
        times = sorted((float(key), count) for key, count in line["response_times"].items())
        print(
            f"requests    {line['num_requests']} {name}, {line['num_failures']} failed; "
            f"p50 {_quantile(times, 0.5):.0f} ms, p95 {_quantile(times, 0.95):.0f} ms"
        )
    for role in memory[0]:
        values = [each[role] for each in memory if role in each]
        middle = values[len(values) // 2]
        print(f"memory      {role} {values[0]:.0f} -> {middle:.0f} -> {values[-1]:.0f} MiB")


def first(options: argparse.Namespace) -> None:
    """Whether the first edit of a service takes longer than those after it."""
    prompts = ("make it night", "make it winter", "remove the ball")
    pictures = []  # of each edit another: what was encoded is remembered
    with Image.open(PICTURE) as opened:
        for turn in (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            file = io.BytesIO()
            (opened if turn is None else opened.transpose(turn)).save(file, "PNG")
            pictures.append(base64.b64encode(file.getvalue()).decode())
    rounds = []
    for _ in range(options.rounds):
        with running(options) as service:
            while service.client.get("/readyz").status_code != 200:
                time.sleep(POLL_SECONDS)
            taken = []
            for seed, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
                inputs = {"prompt": prompt, "input_image": picture, "seed": seed, "steps": options.steps}
                before, begun = service.processor(), time.perf_counter()
                answer = service.client.post("/v1/flux-kontext-dev", json=inputs)
                answer.raise_for_status()
                service.wait(answer.json()["id"], 0.01)
                seconds, after = time.perf_counter() - begun, service.processor()
                taken.append((seconds, *(after[role] - before[role] for role in ("worker", "server"))))
            rounds.append(taken)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.model}; "
        f"medians of {options.rounds} services, {options.steps or 'default'} steps"
    )
    for unit, name in enumerate(("seconds", "processor, worker", "processor, server")):
        medians = [statistics.median(taken[edit][unit] for taken in rounds) for edit in range(3)]
        ratio = statistics.median(taken[0][unit] / taken[2][unit] for taken in rounds)
        shown = ", ".join(f"{median:.2f}" for median in medians)
        print(f"{name:17} first, second, third: {shown}; first to third {ratio:.2f}")


def _quantile(times: list[tuple[float, int]], share: float) -> float:
    left = share * sum(count for _, count in times)
    for value, count in times:
        left -= count
        if left <= 0:
            return value
    return 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "load", "first"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--database-url", default="")
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--preview", action="store_true", help="have the service make previews, too")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    {"overhead": overhead, "load": load, "first": first}[options.what](options)


if __name__ == "__main__":
    main()
