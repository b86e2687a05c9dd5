#!/usr/bin/env python3
"""Kill the toolkit at random moments, fill its disks, and write the tables of docs/reliability.md.

    python3 benches/reliability.py TOOLKIT [--kills N] [--seed N] [--only TEXT]

Kills: every command runs to the end once, for its results and its duration. Then it is killed (SIGKILL), half
of the time at a random moment, half of the time as soon as it writes a temporary file after a random moment.
Each result must be absent, as it was before, or byte for byte that of the whole run. Then the next call must
succeed, end with the bytes of the whole run, and leave no temporary file. A training run is killed, resumed
and killed again, and resumed to the end.

Disks: a full tmpfs, a read-only mount, a folder that accepts no file, a mount point in place of a file, onto
which no file can be renamed, and a system on which every rename fails (seccomp). These need a mount namespace
(`unshare --map-root-user --mount`). A command that must fail before its work is given an input that does not
exist: the error must be about the disk.

Fails on any other result. Needs Linux and Python 3.11.
"""

import ctypes
import errno
import json
import os
import platform
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import tomllib
from argparse import ArgumentParser
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "examples/demo"
CHECKPOINTS = ROOT / "tests/golden/checkpoints"
RECORD = 3073
UNFINISHED = ".unfinished-"
OLD = b"what was there"
PUBLISHED = "cifar10-pixmix"
# Seconds until a command counts as hanging.
PATIENCE = 300
# More than one thread of libtorch makes a network of this size slower.
THREADS = {"OMP_NUM_THREADS": "1"}
NETWORK = "--arch wide-resnet --depth 10 --widen-factor 1 --size 16 --batch-size 32 --epochs 6 --held-out 0.3".split()


class Mirror(BaseHTTPRequestHandler):
    """Serves published weights, slowly and from any byte on."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        file = (CHECKPOINTS / "wrn-pixmix.pt").read_bytes()
        start = int(self.headers.get("range", "bytes=0-")[len("bytes=") : -1])
        self.send_response(416 if start >= len(file) else 206 if start else 200)
        rest = file[start:]
        self.send_header("content-length", str(len(rest)))
        if start:
            self.send_header("content-range", f"bytes {start}-{len(file) - 1}/{len(file)}")
        self.end_headers()
        try:
            for at in range(0, len(rest), 8192):
                self.wfile.write(rest[at : at + 8192])
                time.sleep(0.005)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by name. Versions of a model repository count as the first one."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [re.sub(r"/\d+/model.onnx$", "/1/model.onnx", str(file.relative_to(folder))) for file in files]
    return {name: file.read_bytes() for name, file in zip(names, files)}


def is_unfinished(name: str) -> bool:
    return any(part.startswith(UNFINISHED) or part.endswith(".part") for part in name.split("/"))


@dataclass
class Task:
    """A command that writes files to its folder."""

    name: str
    arguments: list[str]
    # Files that exist before.
    before: dict[str, bytes] = field(default_factory=dict)
    duration: float = 0
    stdout: bytes = b""
    whole: dict[str, bytes] = field(default_factory=dict)


def refuse_renames():
    """Makes every rename of this process fail."""
    numbers = {"x86_64": (82, 264, 316), "aarch64": (38, 276)}[platform.machine()]
    # A BPF program: load the number of the call; jump to the last line if it is one of these; allow; refuse.
    lines = [(0x20, 0, 0, 0)]
    lines += [(0x15, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    lines += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HP", len(lines), ctypes.addressof(code)))
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    call = ctypes.CDLL(None, use_errno=True).prctl
    if call(no_new_privileges, 1, 0, 0, 0) or call(set_seccomp, filtered, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp")


class Toolkit:
    def __init__(self, program: Path, folder: Path, mirror: str):
        self.program, self.folder = program, folder
        # Runs in each process before the program.
        self.prepare = None
        self.environment = os.environ | THREADS | {"CAC_WEIGHTS_MIRROR": mirror}

    def start(self, arguments: list[str], folder: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=folder,
            env=self.environment | {"XDG_CACHE_HOME": str(folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self.prepare,
        )

    def run(self, arguments: list[str], folder: Path) -> bytes:
        process = self.start(arguments, folder)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"{' '.join(arguments)}: {stderr.decode()}"
        return stdout

    def fail(self, arguments: list[str], folder: Path, *parts: str) -> str:
        """The error line of a command that must fail with these words."""
        process = self.start(arguments, folder)
        stderr = process.communicate(timeout=PATIENCE)[1].decode()
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        right = process.returncode == 1 and len(errors) == 1 and all(part in errors[0] for part in parts)
        assert right, f"{' '.join(arguments)}: exit code {process.returncode}: {stderr}"
        return errors[0]

    def kill(self, arguments: list[str], folder: Path, longest: float, chance: random.Random) -> bool:
        """Starts a command and kills it, unless it ends before."""
        process = self.start(arguments, folder)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        threading.Thread(target=process.stderr.read, daemon=True).start()
        moment, at_write = time.monotonic() + chance.uniform(0, longest), chance.random() < 0.5
        while time.monotonic() < moment and process.poll() is None:
            time.sleep(0.0005)
        while at_write and process.poll() is None:
            if any(UNFINISHED in name for _, folders, files in os.walk(folder) for name in folders + files):
                time.sleep(chance.uniform(0, 0.002))
                break
        process.kill()
        return process.wait() < 0


class Kills:
    def __init__(self, toolkit: Toolkit, chance: random.Random):
        self.toolkit, self.chance = toolkit, chance
        self.faults: list[str] = []
        # For each task: kills, and results by their state.
        self.counts: dict[str, Counter] = {}

    @contextmanager
    def judged(self, name: str, number: int):
        try:
            yield
        except (AssertionError, ValueError, OSError) as error:
            self.faults.append(f"{name}, kill {number}: {type(error).__name__} {error}")
            self.counts[name]["faults"] += 1

    def folder(self, files: dict[str, bytes]) -> Path:
        folder = self.toolkit.folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    def measure(self, task: Task):
        """Runs a task to the end."""
        folder = self.folder(task.before)
        start = time.monotonic()
        task.stdout = self.toolkit.run(task.arguments, folder)
        task.duration = time.monotonic() - start
        task.whole = tree(folder)

    def of(self, task: Task, kills: int):
        self.measure(task)
        counts = self.counts.setdefault(task.name, Counter())
        while counts["kills"] < kills:
            folder = self.folder(task.before)
            if not self.toolkit.kill(task.arguments, folder, task.duration, self.chance):
                continue
            counts["kills"] += 1
            with self.judged(task.name, counts["kills"]):
                found = tree(folder)
                counts["leftovers"] += any(is_unfinished(name) for name in found)
                for name, content in found.items():
                    is_right = is_unfinished(name) or content in (task.whole.get(name), task.before.get(name))
                    assert is_right, f"`{name}` is damaged"
                for name in task.whole:
                    content = found.get(name)
                    counts["absent" if content is None else "whole" if content == task.whole[name] else "old"] += 1
                stdout = self.toolkit.run(task.arguments, folder)
                assert comparable(stdout) == comparable(task.stdout), "the next call prints different lines"
                left = tree(folder)
                wrong = [name for name in left.keys() | task.whole.keys() if left.get(name) != task.whole.get(name)]
                assert not wrong, f"the next call leaves {wrong}"

    def of_training(self, arguments: list[str], whole: Path, duration: float, kills: int):
        """Each training is killed up to three times, then resumed to its end."""
        names = ("train", "train --resume")
        new, resumed = (self.counts.setdefault(name, Counter()) for name in names)

        def is_enough() -> bool:
            return new["kills"] + resumed["kills"] >= kills

        while not is_enough():
            folder, run = self.folder({}), self.toolkit.folder / "killed/run"
            for _ in range(3):
                can_resume = any(run.glob("state-*"))
                name = names[can_resume]
                call = ["train", "--resume", "run"] if can_resume else [*arguments, "--run", "run"]
                if not self.toolkit.kill([*call, "--save-every", "0"], folder, duration, self.chance):
                    break
                self.counts[name]["kills"] += 1
                with self.judged(name, self.counts[name]["kills"]):
                    self.check_run(run, name)
                if is_enough():
                    break
            with self.judged(name, self.counts[name]["kills"]):
                can_resume = any(run.glob("state-*"))
                call = ["train", "--resume", "run"] if can_resume else [*arguments, "--run", "run"]
                self.toolkit.run([*call, "--save-every", "0"], folder)
                self.compare(whole, run)

    def check_run(self, run: Path, name: str):
        """Every file of a run can be read."""
        counts = self.counts[name]
        for file in run.glob("*"):
            content = file.read_bytes()
            if is_unfinished(file.name):
                counts["leftovers"] += 1
            elif file.suffix == ".safetensors":
                length = int.from_bytes(content[:8], "little")
                header = json.loads(content[8 : 8 + length])
                header.pop("__metadata__", None)
                end = max(tensor["data_offsets"][1] for tensor in header.values())
                assert 8 + length + end == len(content), f"`{file.name}` is truncated"
            elif file.suffix == ".jsonl":
                assert not content or content.endswith(b"\n"), "the log is truncated"
                for line in content.splitlines():
                    json.loads(line)
            elif file.suffix == ".json":
                json.loads(content)
            elif file.suffix == ".toml":
                tomllib.loads(content.decode())
            counts["whole"] += not is_unfinished(file.name)
        names = ("checkpoint.safetensors", "checkpoint-last.safetensors")
        counts["absent"] += sum(not (run / checkpoint).exists() for checkpoint in names)

    def compare(self, whole: Path, run: Path):
        """A resumed run has the files of a whole one: the same checkpoints and events, and states of the same names."""
        ours, theirs = tree(run), tree(whole)
        assert ours.keys() == theirs.keys(), f"files differ: {ours.keys() ^ theirs.keys()}"
        for name in ours:
            if name.startswith("checkpoint"):
                assert ours[name] == theirs[name], f"`{name}` differs"
        events = [[timeless(line) for line in files["log.jsonl"].splitlines()] for files in (ours, theirs)]
        assert events[0] == events[1], "the logs differ"

    def rows(self) -> list[str]:
        lines = [
            "| killed | kills | left a temporary file | results absent, old, whole | next call failed or differed |",
            "|---|---|---|---|---|",
        ]
        for name, c in self.counts.items():
            results = f"{c['absent']}, {c['old']}, {c['whole']}"
            lines.append(f"| {name} | {c['kills']} | {c['leftovers']} | {results} | {c['faults']} |")
        total = Counter()
        for counts in self.counts.values():
            total.update(counts)
        results = f"{total['absent']}, {total['old']}, {total['whole']}"
        lines.append(f"| all | {total['kills']} | {total['leftovers']} | {results} | {total['faults']} |")
        return lines


def comparable(stdout: bytes) -> bytes:
    """What a command prints, without timings and the version in a repository, which may be the next one."""
    return re.sub(rb"in [\d.]+ s, \d+ images/s|version \d+", b"", stdout)


def timeless(line: bytes) -> dict:
    return {key: value for key, value in json.loads(line).items() if key not in ("seconds", "images_per_second")}


def small_data(folder: Path):
    """A part of the demo's data, in the same format."""
    folder.mkdir()
    demo = DEMO / "cifar-10-batches-bin"
    shutil.copy(demo / "batches.meta.txt", folder)
    for name, count in (("data_batch_1.bin", 320), ("test_batch.bin", 120)):
        content = (demo / name).read_bytes()
        step = len(content) // RECORD // count
        records = [content[at : at + RECORD] for at in range(0, len(content), step * RECORD)]
        (folder / name).write_bytes(b"".join(records[:count]))


class Disks:
    """Disks that fail. Runs as root in a namespace of its own."""

    def __init__(self, toolkit: Toolkit, arguments: list[str], model: Path, run: Path):
        self.toolkit, self.arguments, self.model, self.run = toolkit, arguments, model, run
        weights = str(CHECKPOINTS / "wrn.pt")
        # For each command that writes: arguments before the path, and the same with a missing input.
        self.commands = {
            "export": (["export", "--run", str(run)], ["export", "--run", "missing"]),
            "import": (["import", weights, "--threshold", "1"], ["import", "missing.pt", "--threshold", "1"]),
            "eval --scores": (
                ["eval", str(model), *data(toolkit.folder), "--scores"],
                ["eval", "missing.onnx", *data(toolkit.folder), "--scores"],
            ),
        }

    def call(self, arguments: list[str], file: Path) -> list[str]:
        # The model comes after the weights, and before the flags.
        if arguments[0] == "import":
            return [*arguments[:2], str(file), *arguments[2:]]
        return [*arguments, str(file)]

    @contextmanager
    def mounted(self, *arguments: str):
        """A mount point below the folder."""
        point = self.toolkit.folder / "disk"
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", *arguments, point], check=True)
        try:
            yield point
        finally:
            subprocess.run(["umount", point], check=True)

    def tmpfs(self, size: str):
        return self.mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    @staticmethod
    def fill(folder: Path, leave: int = 0):
        """Takes up the space of a disk, except for some bytes."""
        with open(folder / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
            filler.truncate(max(0, filler.tell() - leave))

    def check_old(self, folder: Path):
        files = tree(folder)
        files.pop("filler", None)
        assert files == {"old": OLD}, f"found {files.keys()}"

    def full_before(self):
        for usual, missing in self.commands.values():
            with self.tmpfs("1m") as disk:
                (disk / "old").write_bytes(OLD)
                self.fill(disk)
                self.toolkit.fail(self.call(missing, disk / "old"), disk, "disk/old`", "No space left")
                self.check_old(disk)
                (disk / "filler").unlink()
        return "error before the work; the old file is intact"

    def full_at_the_end(self):
        for usual, _ in self.commands.values():
            with self.tmpfs("1m") as disk:
                (disk / "old").write_bytes(OLD)
                self.fill(disk, leave=5000)
                self.toolkit.fail(self.call(usual, disk / "old"), disk, "cannot write", "disk/old`", "No space left")
                self.check_old(disk)
                # The same call with enough space.
                (disk / "filler").unlink()
                self.toolkit.run(self.call(usual, disk / "old"), disk)
                assert tree(disk).keys() == {"old"} and (disk / "old").read_bytes() != OLD
        return "error; the old file is intact, no temporary file; the next call with space succeeds"

    def full_train(self):
        with self.tmpfs("1m") as disk:
            self.fill(disk)
            missing = [*self.arguments, "--known", "missing", "--run", str(disk / "run")]
            self.toolkit.fail(missing, disk, "disk/run`", "No space left")
            assert tree(disk).keys() == {"filler"}
        return "error before the data is read; nothing is written"

    def fills_while_training(self):
        with self.tmpfs("64m") as disk:
            process = self.toolkit.start([*self.arguments, "--run", "run", "--save-every", "0"], disk)
            # In the second epoch.
            while not (any((disk / "run").glob("state-000002-*")) or process.poll() is not None):
                time.sleep(0.001)
            self.fill(disk)
            stderr = process.communicate(timeout=PATIENCE)[1].decode()
            assert process.returncode == 1 and "No space left on device" in stderr, stderr
            assert "hint: free some disk space" in stderr, stderr
            kills = Kills(self.toolkit, random.Random())
            kills.counts["disk"] = Counter()
            kills.check_run(disk / "run", "disk")
            assert kills.counts["disk"]["leftovers"] == 0 and any((disk / "run").glob("state-*"))
            (disk / "filler").unlink()
            self.toolkit.run(["train", "--resume", "run", "--save-every", "0"], disk)
            kills.compare(self.run, disk / "run")
        return "error; all files are whole; `--resume` with space ends with the bytes of a whole run"

    def cannot_write(self, folder: Path, *parts: str):
        """Every command fails before its work."""
        for _, missing in self.commands.values():
            self.toolkit.fail(self.call(missing, folder / "old"), self.toolkit.folder, f"{folder.name}/old`", *parts)
        missing = [*self.arguments, "--known", "missing", "--run", str(folder / "run")]
        self.toolkit.fail(missing, self.toolkit.folder, f"{folder.name}/run`", *parts)

    def read_only(self):
        source = self.toolkit.folder / "source"
        source.mkdir()
        (source / "old").write_bytes(OLD)
        shutil.copytree(self.run, source / "trained")
        with self.mounted("--bind", "-o", "ro", str(source)) as disk:
            self.cannot_write(disk, "Read-only file system")
            resume = ["train", "--resume", str(disk / "trained")]
            self.toolkit.fail(resume, self.toolkit.folder, "disk/trained/", "Read-only file system")
        self.check_old_and_run(source)
        return "error before the work; files are intact"

    def check_old_and_run(self, source: Path):
        assert (source / "old").read_bytes() == OLD and tree(source / "trained") == tree(self.run)
        assert len(list(source.iterdir())) == 2

    def no_files(self):
        self.cannot_write(Path("/proc"))
        return "error before the work"

    def no_renames(self):
        folder = self.toolkit.folder / "renamed"
        folder.mkdir()
        (folder / "old").write_bytes(OLD)
        self.toolkit.prepare = refuse_renames
        try:
            self.cannot_write(folder, "Operation not permitted")
        finally:
            self.toolkit.prepare = None
        self.check_old(folder)
        return "error before the work; the old file is intact, no temporary file"

    def rename(self):
        folder = self.toolkit.folder / "renamed"
        for usual, _ in self.commands.values():
            folder.mkdir()
            (folder / "old").write_bytes(OLD)
            subprocess.run(["mount", "--bind", folder / "old", folder / "old"], check=True)
            try:
                self.toolkit.fail(self.call(usual, folder / "old"), folder, "cannot write", "/old`", "busy")
                self.check_old(folder)
            finally:
                subprocess.run(["umount", folder / "old"], check=True)
            shutil.rmtree(folder)
        return "error; the old file is intact, no temporary file"

    def rename_train(self):
        folder = self.toolkit.folder / "renamed"
        (folder / "run").mkdir(parents=True)
        checkpoint = folder / "run/checkpoint-last.safetensors"
        # A folder with a checkpoint holds a run already: the file is made after the first state.
        process = self.toolkit.start([*self.arguments, "--run", "run", "--save-every", "0"], folder)
        while not (any((folder / "run").glob("state-*")) or process.poll() is not None):
            time.sleep(0.001)
        checkpoint.touch()
        subprocess.run(["mount", "--bind", checkpoint, checkpoint], check=True)
        try:
            stderr = process.communicate(timeout=PATIENCE)[1].decode()
            assert process.returncode == 1 and "cannot write `run/checkpoint-last.safetensors`" in stderr, stderr
            assert not any(is_unfinished(name) for name in tree(folder))
        finally:
            subprocess.run(["umount", checkpoint], check=True)
        self.toolkit.run(["train", "--resume", "run", "--save-every", "0"], folder)
        Kills(self.toolkit, random.Random()).compare(self.run, folder / "run")
        return "error; `--resume` on a disk that renames ends with the bytes of a whole run"

    CASES = {
        "full disk: export, import, eval --scores": full_before,
        "full disk: train": full_train,
        "disk with room for 5 kB: export, import, eval --scores": full_at_the_end,
        "disk that fills up while training": fills_while_training,
        "read-only mount: export, import, eval --scores, train, train --resume": read_only,
        "folder that takes no file (/proc): export, import, eval --scores, train": no_files,
        "every rename fails (seccomp): export, import, eval --scores, train": no_renames,
        "file that cannot be renamed onto (a mount point): export, import, eval --scores": rename,
        "checkpoint that cannot be renamed onto: train": rename_train,
    }


def data(folder: Path) -> list[str]:
    return ["--known", str(folder / "data"), "--unknown", "uniform-noise:50"]


def tasks(folder: Path, run: Path, model: Path) -> list[Task]:
    weights = str(CHECKPOINTS / "wrn.pt")
    scores = ["eval", str(model), *data(folder), "--scores"]
    (folder / "scores.csv").write_text("score,label,prediction\n" + "0.5,-1,\n0.25,1,1\n" * 200_000)
    old = {"model.onnx": OLD}
    return [
        Task("export", ["export", "--run", str(run), "model.onnx"]),
        Task("export onto a file", ["export", "--run", str(run), "model.onnx"], old),
        Task("export --triton", ["export", "--run", str(run), "model.onnx", "--triton", "models"]),
        Task("import", ["import", weights, "model.onnx", "--threshold", "1"]),
        Task("import onto a file", ["import", weights, "model.onnx", "--threshold", "1"], old),
        Task("import with download", ["import", PUBLISHED, "model.onnx", "--score", "msp", "--threshold", "-0.5"]),
        Task("eval --scores", [*scores, "scores.csv"]),
        Task("eval --scores onto a file", [*scores, "scores.npz"], {"scores.npz": OLD}),
        Task("metrics", ["metrics", str(folder / "scores.csv"), "--resamples", "20"]),
    ]


def machine(program: Path) -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    cores = f"{os.cpu_count()} cores of {cpu[1] if cpu else platform.machine()}"
    return f"{version}, {cores}, Linux {platform.release()}, Python {platform.python_version()}"


def write_page(table: str):
    page = ROOT / "docs/reliability.md"
    begin, end = "<!-- reliability -->\n", "<!-- end -->"
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    assert tail, f"{page} has no place for the tables"
    page.write_text(f"{head}{begin}{table}\n{end}{tail}")


def disks(toolkit: Toolkit, arguments: list[str], model: Path, run: Path, only: str) -> int:
    """Prints a row for each case; the part that runs in a namespace."""
    failures, bench = 0, Disks(toolkit, arguments, model, run)
    for name, case in Disks.CASES.items():
        if only not in name:
            continue
        try:
            print(f"| {name} | {case(bench)} |", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            failures += 1
            print(f"| {name} | failed |", flush=True)
            print(f"{name}: {error}", file=sys.stderr)
        shutil.rmtree(toolkit.folder / "renamed", ignore_errors=True)
    return failures


def main(args) -> int:
    program = args.toolkit.resolve()
    if args.inside:
        folder = args.inside
        arguments = ["train", *data(folder), *NETWORK]
        toolkit = Toolkit(program, folder, "http://127.0.0.1:1")
        return disks(toolkit, arguments, folder / "model.onnx", folder / "whole/run", args.only)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        toolkit = Toolkit(program, folder, f"http://127.0.0.1:{server.server_port}")
        small_data(folder / "data")
        (folder / "whole").mkdir()
        run, model = folder / "whole/run", folder / "model.onnx"
        arguments = ["train", *data(folder), *NETWORK]
        start = time.monotonic()
        toolkit.run([*arguments, "--run", "run", "--save-every", "0"], folder / "whole")
        duration = time.monotonic() - start
        toolkit.run(["export", "--run", str(run), str(model)], folder)

        kills = Kills(toolkit, random.Random(args.seed))
        others = [task for task in tasks(folder, run, model) if args.only in task.name]
        share = args.kills // (len(others) + 4)
        for task in others:
            kills.of(task, share)
            print(task.name, dict(kills.counts[task.name]), file=sys.stderr, flush=True)
        if args.only in "train --resume":
            kills.of_training(arguments, run, duration, args.kills - share * len(others))
        for fault in kills.faults:
            print(fault, file=sys.stderr)
        command = [sys.executable, __file__, program, "--inside", folder, "--only", args.only]
        namespace = subprocess.run(
            ["unshare", "--map-root-user", "--mount", *command], stdout=subprocess.PIPE, text=True
        )
    disk_rows = ["| disk | result |", "|---|---|", *namespace.stdout.splitlines()]
    when = f"Measured on {date.today()}, seed {args.seed}: {machine(program)}."
    table = "\n".join([when, "", *kills.rows(), "", *disk_rows])
    print(table)
    has_failed = bool(kills.faults or namespace.returncode)
    is_whole = not args.only and args.kills >= 200
    if is_whole and not has_failed:
        write_page(table)
    return int(has_failed)


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("toolkit", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name holds this text; docs are not written")
    parser.add_argument("--inside", type=Path, help="the folder of the part that runs in a namespace")
    sys.exit(main(parser.parse_args()))
