"""`make bench`: run the cases, write the JSON, render the tables and the picture.

python -m benchmarks --list
python -m benchmarks --case 2 --case 5 --rounds 3 --scale 0.1
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import clients, picture, results, tables
from benchmarks.bench import Bench
from benchmarks.cases import CASES, Case
from benchmarks.goals import judge
from benchmarks.results import Report, Run

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
VAR = HERE.parent / "var"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it: 0 if it was measured (goals met or not), 1 if one of our runs failed, 2 for a wrong command line."""
    options = _parser().parse_args(argv)
    if options.list:
        for case in CASES:
            _say(f"{case.key:>3}  {case.title}\n     goal: {case.goal}")
            for variant in case.variants(1.0):
                _say(f"       {variant.name}: {', '.join(variant.clients)}")
        return 0
    file = options.render or options.results / f"{datetime.datetime.now().astimezone().date()}.json"
    if options.render is None:
        cases = [case for case in CASES if not options.case or case.key in options.case]
        new = _run(cases, file.stem, options)
        if not new.runs:
            _say("nothing ran")
            return 1
        results.write(file, results.merged(results.read(file), new))
    report = results.read(file)
    if report is None:
        _say(f"{file} does not exist")
        return 2
    return _show(report, file, options.document)


def _run(cases: Sequence[Case], date: str, options: argparse.Namespace) -> Report:
    folder, is_mine = options.dir, options.dir is None
    if is_mine:
        VAR.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=VAR))
    runs: list[Run] = []
    settings: dict[str, str] = {}
    bench = Bench(folder, peers=tuple(options.peers), say=_say, use_nginx=not options.no_nginx)
    try:
        with bench:
            for case in cases:
                now = datetime.datetime.now().astimezone()
                settings[case.key] = f"Rounds: {options.rounds}, scale {options.scale:g}, {now:%Y-%m-%d %H:%M}."
                only = tuple(options.clients.split(",")) if options.clients else ()
                # One by one: what was measured before Ctrl-C is kept.
                for run in bench.run(
                    case,
                    rounds=options.rounds,
                    scale=options.scale,
                    only=only,
                    variants=options.variant,
                    with_profile=options.profile,
                ):
                    runs.append(run)  # noqa: PERF402
    except KeyboardInterrupt:
        _say("stopped: what was measured is kept")
    finally:
        if is_mine:
            shutil.rmtree(folder, ignore_errors=True)
    machine = results.this_machine(_versions())
    return Report(date=date, machine=machine, settings=settings, runs=tuple(runs), profiles=bench.profiles)


def _versions() -> Mapping[str, Sequence[str]]:
    own = clients.own_bin()
    hf = "import huggingface_hub; print(huggingface_hub.__version__)"
    return {
        "ours": (str(own / "qwen-daemon"), "--version"),
        "huggingface_hub": (str(own / "python"), "-c", hf),
        "aria2": ("aria2c", "--version"),
        "curl": ("curl", "--version"),
        "openssl": ("openssl", "version"),
        "nginx": ("/usr/sbin/nginx", "-v"),
    }


def _show(report: Report, file: Path, document: Path) -> int:
    drawing = document.with_suffix(".svg")
    tables.render(report, document, drawing.name)
    drawing.write_text(picture.draw(report.runs))
    verdicts = judge(report.runs)
    for line in tables.goal_lines(verdicts):
        _say(line)
    _say(f"{file}\n{document}\n{drawing}")
    return 0 if all(run.is_good and run.correct for run in report.runs if run.client == "ours") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = [case.key for case in CASES]
    parser.add_argument("--list", action="store_true", help="the cases, their goals and their clients")
    parser.add_argument("--case", action="append", choices=keys, metavar="N", help="only this one; may be repeated")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="only this comparison of the cases; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks sizes and counts; goals are meant for 1")
    parser.add_argument("--clients", default="", metavar="A,B", help="only these, by the names that --list shows")
    parser.add_argument(
        "--peers", type=Path, action="append", default=[], metavar="BIN", help="more folders of programs"
    )
    parser.add_argument("--no-nginx", action="store_true", help="the built-in origin instead; no TLS then")
    parser.add_argument("--profile", action="store_true", help="one more run of ours per comparison, under py-spy")
    parser.add_argument("--dir", type=Path, help="where to work; what is made there is kept (default: under var/)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="where the JSON goes")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="where the tables go (and beside it the SVG)")
    parser.add_argument("--render", type=Path, metavar="JSON", help="measure nothing: tables from this file")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
