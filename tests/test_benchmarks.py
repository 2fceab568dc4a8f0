"""The benchmarks' bookkeeping: whose time is whose, and which numbers are compared."""

import sys
from pathlib import Path
from types import SimpleNamespace

import bench_meta_train
import bench_report
import bench_sides
import bench_work
import jax
import profile_meta_train
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
PROGRAM = """
FileNames
1 "/x/lopt/unroll.py"
2 "/x/lopt/data.py"
3 "/x/lopt/optimizers/network.py"

FunctionNames
1 "inner_step"
2 "sample_batch"
3 "apply_network"

FileLocations
1 {file_name_id=1 function_name_id=1 line=4 end_line=4 column=3 end_column=3}
2 {file_name_id=2 function_name_id=2 line=4 end_line=4 column=3 end_column=3}
3 {file_name_id=3 function_name_id=3 line=4 end_line=4 column=3 end_column=3}

StackFrames
FRAMES

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0), metadata={stack_frame_id=1}
  %a = f32[2,3]{1,0} add(%p, %p), metadata={op_name="a" stack_frame_id=1}
  ROOT %b = f32[2]{0} multiply(%a, %a), metadata={op_name="b" stack_frame_id=3}
}

ENTRY %main (q: f32[8]) -> f32[8] {
  %gather = f32[8]{0} gather(%q), metadata={op_name="g" stack_frame_id=2}
  %mixed = f32[8]{0} fusion(%gather), kind=kLoop, calls=%fused
  %sum = f32[] all-reduce(%mixed), metadata={op_name="s" stack_frame_id=1}
  ROOT %copy = f32[8]{0} copy(%mixed)
}
"""
FRAMES = {
    "counted from 0": (1, 0, 2, 1, 3, 1),
    "counted from 1": (1, 1, 2, 2, 3, 2),
}
"""Locations and parents; the second and the third frame lie within the first."""


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
def test_an_operation_belongs_to_the_lines_that_it_came_from(frames):
    table = "\n".join(
        f"{i + 1} {{file_location_id={place} parent_frame_id={parent}}}"
        for i, (place, parent) in enumerate(zip(frames[::2], frames[1::2], strict=True))
    )
    program = profile_meta_train.Program(PROGRAM.replace("FRAMES", table))
    assert program.shares("gather") == {"minibatch": 1.0}
    assert program.shares("mixed") == {
        "loss and its gradient": 0.75,
        "network over elements": 0.25,
    }
    assert program.shares("sum") == {profile_meta_train.WAITING: 1.0}
    assert program.shares("copy") == {profile_meta_train.OTHER: 1.0}


def test_what_happens_inside_an_operation_is_not_its_own_time():
    def event(start, end, name):
        stats = [("hlo_op", name), ("hlo_module", "m")] if name else []
        return SimpleNamespace(start_ns=start, duration_ns=end - start, stats=stats)

    events = [
        event(0, 1e9, "while"),
        event(1e8, 4e8, "dot"),
        event(2e8, 3e8, "inner"),
        event(4e8, 6e8, "dot"),
        event(0, 2e9, None),
        event(1e9, 3e9, "while"),
    ]
    lines = [SimpleNamespace(events=events), SimpleNamespace(events=events[:1])]
    plane = SimpleNamespace(lines=lines)
    times = profile_meta_train.self_times(SimpleNamespace(planes=[plane]))
    expected = {"while": 0.5 + 2.0 + 1.0, "dot": 0.2 + 0.2, "inner": 0.1}
    assert times == pytest.approx({("m", name): t for name, t in expected.items()})


@pytest.mark.slow
def test_the_patterns_name_lines_that_exist():
    """Every part but the outer update is found in the programs that are profiled."""
    found = set()
    for optimizer in profile_meta_train.OPTIMIZERS:
        trainer = bench_work.Case(optimizer=optimizer, particles=2, length=10).trainer()
        state = trainer.init(jax.random.key(0))
        step = jax.jit(trainer.step).lower(state, trainer.datas)
        program = profile_meta_train.Program(step.compile().as_text())
        for name in program.operations:
            found |= set(program.shares(name))
    assert found >= {group for group, _ in profile_meta_train.RULES}


def test_sides_work_in_turns_and_a_dead_one_is_told(tmp_path):
    program = tmp_path / "side.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import bench_sides, time\n"
        "def setup():\n"
        "    time.sleep(0.3)\n"
        "    return lambda: time.sleep(0.01) or 5\n"
        "def broken():\n"
        "    sys.exit('broken indeed')\n"
        "print('noise')\n"
        "bench_sides.serve({'sleep': setup} | ({'b': broken} if sys.argv[1:] else {}))\n"
    )
    side = bench_sides.Side([sys.executable, str(program)])
    found = bench_sides.in_turns({"it": side}, turns=2, seconds=0.05, clock="wall")
    side.end()
    result = found["sleep"]["it"]
    assert result["first_call_seconds"] >= 0.3
    assert len(result["turns"]) == 2
    assert 50 < result["inner_steps_per_second"] <= 500
    side = bench_sides.Side([sys.executable, str(program), "broken"])
    with pytest.raises(SystemExit, match="ended"):
        side.run("b", 1)


def test_rates_are_compared_with_the_best_of_the_same_optimizer():
    other = {
        "parts": {
            "rates": [{"optimizer": "mlp", bench_report.RATE: 400}],
            "particles": [
                {"optimizer": "mlp", bench_report.RATE: 100},
                {"optimizer": "layerwise", bench_report.RATE: 1000},
            ],
            "cores": [{"optimizer": "mlp", "2 cores": 9999}],
        }
    }
    rows = [{"optimizer": "mlp", bench_report.RATE: 8000}, {"optimizer": "nn_adam"}]
    bench_report.compare(rows, other)
    assert rows[0]["times the other's best"] == 20
    assert rows[1] == {"optimizer": "nn_adam"}


def test_a_name_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        bench_meta_train.parse(["--parts", "rates,rats"])
    assert "rats" in capsys.readouterr().err


def test_long_calls_have_fewer_turns(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(bench_work, "time", clock)
    count = {"short": 0, "long": 0}

    def call(name, seconds, steps):
        def advance():
            now[0] += seconds
            count[name] += 1
            return steps

        return advance

    calls = {"short": call("short", 0.1, 10), "long": call("long", 60.0, 30)}
    rates = bench_work.take_turns(calls, turns=5, seconds=0.5)
    assert rates == pytest.approx({"short": 100.0, "long": 0.5})
    assert count == {"short": 2 + 5 * 5, "long": 2 + 1}
