"""The command line: what people type, what they get, and one line with status 2 for what cannot be done."""

import json
import re
import subprocess
import sys
import time

import pytest

from anabranch import catalog, cli
from anabranch.bench.runner import Runner


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder; gives the status, what was printed, and what was said of errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anabranch", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_importing_is_light():
    code = "import sys, anabranch; print([m for m in ('torch', 'numpy', 'sklearn', 'pandas', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy():
    code = (
        "import sys, anabranch.cli; sys.argv = ['anabranch', '--help']\n"
        "try: anabranch.cli.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout and done.stdout.strip().endswith("[]")


def test_papers_are_listed_by_family_and_slot(run):
    status, out, _ = run("list")
    assert status == 0 and "metaformer" in out and "ewc" in out
    _, out, _ = run("list", "--family", "mixing")
    assert "metaformer" in out and "ewc" not in out
    _, out, _ = run("list", "--slot", "rule")
    assert "forward-forward" in out and "metaformer" not in out


def test_search_prints_summaries(run):
    status, out, _ = run("search", "catastrophic", "forgeting")
    assert status == 0 and out.splitlines()[0].startswith("ewc")


def test_a_paper_is_shown_with_imports_example_and_evidence(run):
    status, out, _ = run("show", "linear-transformer")
    assert status == 0
    assert "from anabranch.nn.attention import LinearAttention" in out
    assert "Example" in out and "verdict:" in out and "linear-transformer.svg" in out


def test_an_example_can_be_copied_from_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run("show", "nn-to-tree")
    assert catalog.paper("nn-to-tree").example in out


def test_slots_are_listed_with_their_parts(run):
    status, out, _ = run("slots")
    assert status == 0 and "attention, " in out


def test_a_race_prints_a_leaderboard_and_writes_a_report(run, tmp_path):
    arguments = ["compare", "wine", "--vary", "dense=perceptron,kan", "--classical", "none", "--budget", "5 steps"]
    status, out, _ = run(*arguments, "--trials", "1")
    assert status == 0
    assert "leads" in out and "perceptron" in out and "report: wine.race.html" in out
    report = (tmp_path / "wine.race.html").read_text()
    assert "Learning curves" in report and "Seed by seed" in report and "Plotly.newPlot" in report
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", report, flags=re.DOTALL)  # Plotly's code names its home page
    assert "Learning curves" in page and 'src="http' not in page and 'href="http' not in page  # nothing from elsewhere
    status, _, err = run(*arguments, "--trials", "1")
    assert status == 2 and "--resume" in err
    status, out, err = run(*arguments, "--trials", "1", "--resume", "--json")
    assert status == 0 and {row["contender"] for row in json.loads(out)["rows"]} == {"perceptron", "kan"}
    assert "report:" in err


def test_a_race_that_is_interrupted_keeps_what_is_finished(run, monkeypatch, tmp_path):
    arguments = ["compare", "wine", "--vary", "dense=perceptron", "--classical", "none", "--budget", "1 step"]
    whole, finished = Runner.run, []

    def interrupted(self, job, on_progress=None):
        if finished:
            raise KeyboardInterrupt
        finished.append(whole(self, job, on_progress))
        return finished[0]

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", interrupted)
        status, out, err = run(*arguments, "--trials", "1")
    assert status == 130 and "--resume goes on" in out and err.strip() == "anabranch: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["wine.race.db"]
    done = []
    monkeypatch.setattr(Runner, "run", lambda *job: done.append(job) or whole(*job))
    status, out, _ = run(*arguments, "--trials", "1", "--resume")
    assert status == 0 and "perceptron leads" in out and len(done) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "metaforme"], "unknown paper 'metaforme'; did you mean 'metaformer'?"),
        (["verify"], "expected the name of at least one paper, or --all"),
        (["verify", "nope"], "unknown claim 'nope'"),
        (["list", "--family", "mixin"], "unknown family 'mixin'; did you mean 'mixing'?"),
        (["list", "--slot", "mixr"], "unknown slot 'mixr'; did you mean 'mixer'?"),
        (["search", "zzqqxx"], "nothing is near 'zzqqxx'"),
        (["compare", "digit"], "unknown task 'digit'; did you mean 'digits'?"),
        (["compare", "no/such/file.csv"], "no/such/file.csv"),
        (["compare", "wine", "--vary", "dense"], "expected --vary SLOT=a,b,c"),
        (["compare", "wine", "--vary", "dense=kan", "--vary", "dense=perceptron"], "comes twice"),
        (["compare", "wine", "--vary", "dense=kam"], "unknown dense 'kam'; did you mean 'kan'?"),
        (["compare", "wine", "--budget", "long"], "expected a budget such as '300 steps'"),
        (["compare", "wine", "--seeds", "1"], "expected at least 3 seeds"),
        (["compare", "wine", "--report", "no/folder/x.html"], "does not exist"),
        (["compare", "wine", "--report", "/proc/x.html"], "cannot write '/proc/x.html'"),
        (["verify", "nn-to-tree", "--out", "/proc/x"], "cannot write '/proc/x/nn-to-tree.json'"),
        (["compare", "wine", "--storage", "no/folder/x.db"], "cannot use the storage"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(run, tmp_path, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("empty.csv", b"", ["--target", "y"]),
        ("binary.csv", bytes(range(256)) * 40, ["--target", "y"]),
        ("huge.csv", b"a,y\n" + b"x" * 200_000 + b",1\n", ["--target", "y"]),
        ("header.csv", b"a,y\n", ["--target", "y"]),
        ("twice.csv", b"a,a,y\n" + b"1,2,3\n" * 50, ["--target", "y"]),
        ("one-class.csv", b"a,y\n" + b"1,yes\n" * 50, ["--target", "y"]),
        ("infinite.csv", b"a,y\n" + b"inf,1\n2,2\n3,3.5\n" * 20, ["--target", "y"]),
        ("few.csv", b"a,y\n1,yes\n2,no\n", ["--target", "y"]),
        ("no-target.csv", b"a,y\n" + b"1,yes\n2,no\n" * 30, []),
        ("unknown-target.csv", b"a,y\n" + b"1,yes\n2,no\n" * 30, ["--target", "z"]),
        ("missing-target.csv", b"a,y\n" + b"1,\n" * 50, ["--target", "y"]),
        ("times.csv", b"t,v\n" + b"noon,1\n" * 300, ["--time", "t"]),
        ("broken.npz", b"PK\x03\x04 not really", []),
        ("broken.parquet", b"PAR1 not really", ["--target", "y"]),
    ],
)
def test_bad_files_are_one_line_and_status_2(run, tmp_path, name, content, options):
    (tmp_path / name).write_bytes(content)
    status, out, err = run("compare", name, *options)
    assert status == 2, out
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing was written


@pytest.mark.slow
def test_import_and_help_are_quick():
    # The best of a few, since the machine may be doing something else.
    def best(*arguments: str) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - started)
        return min(times)

    nothing = best("-c", "pass")
    assert best("-c", "import anabranch") - nothing < 0.2
    assert best("-m", "anabranch", "--help") < 0.5
