"""Does the pattern matter? Small models on tasks of known reach, and on text.

    python benchmarks/quality.py                       all runs of benchmarks/quality.toml that are not done yet
    python benchmarks/quality.py --only copy --jobs 1  those of some studies, one at a time
    python benchmarks/quality.py --list                what would run
    python benchmarks/quality.py --page                tables and pictures of what is done: docs/explanation/quality.md

Each study has a file in benchmarks/results/quality: a line of JSON for each run, written when it is done, so that what
is stopped goes on where it was; a last line that was cut off is dropped, and its run done again. A run is a line of
benchmarks/quality.toml with one value for each list in it; its own line in the results says all that it depends on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the modules beside this one, whoever imports it

from quality_run import Run, carried_out

from pidsl.console import Progress
from pidsl.demo.measure import default_device, machine, versions
from pidsl.errors import ArgumentError, PidslError

HERE = Path(__file__).resolve().parent
CONFIG, RESULTS = HERE / "quality.toml", HERE / "results" / "quality"


def planned(config: Path) -> list[Run]:
    """The runs of a file, seed after seed.

    `contenders` maps a name to a pattern, by group; each of `runs` is a table of `Run`'s arguments, in which `group`
    and `of` stand for name and pattern, and a list for a run with each of its values.

    Raises:
        ArgumentError: there is no such file, or it is no TOML; a run that cannot be, or that is there twice.
    """
    try:
        content = tomllib.loads(config.read_text(encoding="utf-8"))
        lines, contenders = content["runs"], content["contenders"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as e:
        raise ArgumentError(str(e), "a file of contenders and runs, as benchmarks/quality.toml", str(config)) from e
    runs = [run for line in lines for run in _spread(line, contenders)]
    if twice := sorted({str(run) for run in runs if runs.count(run) > 1}):
        raise ArgumentError(f"twice: {twice[0]}", "each run once", str(config))
    return sorted(runs, key=lambda run: run.seed)


def _spread(line: Mapping[str, Any], contenders: Mapping[str, Mapping[str, str]]) -> Iterator[Run]:
    where = f"runs of {line.get('study')!r}"
    needed, known = {"group", "of", "study", "task", "layers", "n"}, {field.name for field in fields(Run)}
    if wrong := sorted((needed - line.keys()) | (line.keys() - needed - known) | (line.keys() & {"name", "pattern"})):
        expected = f"{', '.join(sorted(needed))}, and no other than arguments of Run"
        raise ArgumentError(f"{wrong[0]}: {line.get(wrong[0], 'missing')!r}", expected, where)
    if line["group"] not in contenders:
        raise ArgumentError(f"group = {line['group']!r}", f"one of {', '.join(contenders)}", where)
    group = contenders[line["group"]]
    lists = {key: value if isinstance(value, list) else [value] for key, value in line.items() if key != "group"}
    for values in itertools.product(*lists.values()):
        given = dict(zip(lists, values, strict=True))
        name = given.pop("of")
        if name not in group:
            raise ArgumentError(f"of = {name!r}", f"one of {', '.join(group)}", where)
        yield Run(name=name, pattern=group[name], **given)


def done(study: str, results: Path) -> dict[Run, dict[str, Any]]:
    """The results of a study, by run; of a line that was cut off, its writer being stopped, there is none.

    Raises:
        ArgumentError: a line is no result.
    """
    path, found = results / f"{study}.jsonl", {}
    for number, line in enumerate(_whole(path).decode(errors="replace").splitlines(), 1):
        try:
            result = json.loads(line)
            found[Run(**result["run"])] = result
        except (ValueError, KeyError, TypeError) as e:
            raise ArgumentError(f"{line[:60]!r}: {e}", "a result of a run", f"{path}, line {number}") from e
    return found


def _whole(path: Path) -> bytes:
    """The lines of a file that end."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def mend(study: str, results: Path) -> bool:
    """Drop the last line of a study's file where it was cut off; whether it was."""
    path = results / f"{study}.jsonl"
    whole = len(_whole(path))
    if not path.exists() or whole == path.stat().st_size:
        return False
    os.truncate(path, whole)
    return True


def results_of(runs: Sequence[Run], results: Path) -> dict[str, list[dict[str, Any]]]:
    """The results that there are of some runs, by study, in the order of the runs."""
    of = {study: done(study, results) for study in dict.fromkeys(run.study for run in runs)}
    return {study: [each[run] for run in runs if run in each] for study, each in of.items()}


def missing(runs: Sequence[Run], results: Path) -> list[Run]:
    """Those without a result."""
    there = {run for study in dict.fromkeys(run.study for run in runs) for run in done(study, results)}
    return [run for run in runs if run not in there]


def keep(found: Mapping[str, Any], results: Path) -> None:
    """Append a result to the file of its study."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{found['run']['study']}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")


def _one(run: Run) -> dict[str, Any]:
    torch.set_num_threads(1)
    device = default_device()
    found = carried_out(run, device)
    return found | {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(device), "versions": versions(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="studies")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, with a thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--list", action="store_true", help="print the runs that are missing, and end")
    parser.add_argument("--page", action="store_true", help="write the page of what is done, and end")
    args = parser.parse_args(argv)
    try:
        runs = planned(args.config)
    except PidslError as e:
        parser.error(str(e))
    if unknown := sorted(set(args.only) - {run.study for run in runs}):
        parser.error(f"no study {unknown[0]!r}: there are {', '.join(dict.fromkeys(run.study for run in runs))}")
    runs = [run for run in runs if not args.only or run.study in args.only]
    if args.page:
        import quality_page

        print(quality_page.write(results_of(runs, args.results)))
        return 0
    runs = missing(runs, args.results)
    if args.list:
        print(*runs, sep="\n")
        return 0
    for study in dict.fromkeys(run.study for run in runs):
        if mend(study, args.results):
            print(f"{study}: the last line was cut off, and its run is done again", file=sys.stderr)
    end = time.monotonic() + 60 * args.minutes
    context, waiting, under_way = multiprocessing.get_context("spawn"), iter(runs), set[Future[dict[str, Any]]]()
    with ProcessPoolExecutor(args.jobs, context) as pool, Progress("runs", len(runs)) as progress:
        while True:
            if time.monotonic() < end:
                under_way |= {pool.submit(_one, run) for run in itertools.islice(waiting, args.jobs - len(under_way))}
            if not under_way:
                return 0
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for found in (x.result() for x in ended):
                keep(found, args.results)
                progress.step(f"{found['run']['study']} {found['run']['name']}")


if __name__ == "__main__":
    raise SystemExit(main())
