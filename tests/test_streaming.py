"""Streamed tasks: chunks of a set that may stay on disk, ahead of the loop."""

import os
import shutil
import sys
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from disk_sets import idx, labels, write_idx
from toy_runs import TOY, Recorder, assert_same_run, toy_run, untimed
from trainers import entry, make_trainer, small_mlp
from unrolls import two_rates

from lopt import disk
from lopt.config import load_suite
from lopt.data import source
from lopt.errors import ConfigError
from lopt.families.autoencoder import autoencoder
from lopt.files import rundir
from lopt.finetuning.start import places as places_of
from lopt.finetuning.start import started
from lopt.groups import TaskGroup, data_hashes
from lopt.run import meta_train
from lopt.run.build import build
from lopt.run.feeding import feeding
from lopt.streams import chunks, places

ON = ("tasks.0.streamed=true", "stream_every=2", "keep_checkpoints=9")


def write_set(folder, num=300, dtype=np.float32):
    """Examples that are known by their first column."""
    x = np.random.RandomState(0).uniform(0, 200, (num, 3)).astype(dtype)
    x[:, 0] = np.arange(num)
    np.savez(folder / "set.npz", x=x, y=labels(num))
    return str(folder / "set.npz")


def streamed_run(out=None, *overrides, **options):
    """Seven steps of the toy, two on each chunk."""
    pytest.importorskip("grain", reason="grain is not installed")
    return toy_run(out, overrides=[*ON, *overrides], **options)


@pytest.mark.parametrize("size", [1, 30, 41, 100])
def test_every_example_is_seen_once_an_epoch(size):
    found = np.concatenate([places(c, size, 100, 3) for c in range(300 // size + 1)])
    epochs = found[:300].reshape(3, 100)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [np.arange(100)] * 3)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(places(0, size, 100, 3), places(0, 100, 100, 4)[:size])


def test_chunks_are_the_train_split_standardized_as_the_others(tmp_path):
    name = write_set(tmp_path)
    found = source(name)
    split = found.indices[0]
    order = np.argsort(found.x(split)[:, 0])
    chunk = chunks(name, size=55, input_scale=2.0, input_offset=1.0)
    xs, ys = zip(*map(chunk, range(3)), strict=True)
    assert len(split) == 165 and xs[0].dtype == np.float32 and ys[0].dtype == np.int32
    x, y = np.concatenate(xs), np.concatenate(ys)
    mine = np.argsort(x[:, 0])
    np.testing.assert_allclose(x[mine], 2 * (found.x(split[order]) + 1), atol=1e-5)
    np.testing.assert_array_equal(y[mine], found.y(split[order]))
    kept = chunks(name, size=20, classes=(2, 0), label_noise=0.5)
    x, y = kept(1)
    clean = dict(zip(found.x(split)[:, 0].astype(np.float32), split, strict=True))
    right = [{2: 0, 0: 1}[clean[value] % 3] for value in x[:, 0]]
    assert {*y.tolist()} == {0, 1} and 2 <= np.sum(y != right) <= 18


def test_a_task_has_chunk_0_and_keeps_its_other_splits(tmp_path):
    name = write_set(tmp_path)
    task, plain = small_mlp(dataset=name, stream_examples=40), small_mlp(dataset=name)
    assert task.name == plain.name + "-stream-40"
    np.testing.assert_array_equal(task.data["train"][0], task.stream(0)["train"][0])
    assert task.data["train"][0].shape == task.stream(7)["train"][0].shape == (40, 3)
    assert not np.array_equal(task.stream(1)["train"][0], task.data["train"][0])
    for split in ("meta", "valid", "test"):
        assert task.stream(1)[split][0] is plain.data[split][0]
    assert task.batch is plain.batch and task.loss is plain.loss
    data = autoencoder(dataset=name, stream_examples=40).data
    assert isinstance(data["train"][0], np.ndarray)


def trainer_of(*tasks):
    return make_trainer(two_rates(), [entry(task) for task in tasks])


def test_tasks_of_one_program_are_streamed_side_by_side(tmp_path):
    name = write_set(tmp_path)
    streamed = small_mlp(dataset=name, stream_examples=40)
    plain = small_mlp(dataset=name, num_examples=40)
    (group,) = trainer_of(streamed, plain).groups
    x = group.chunk(3)["train"][0]
    np.testing.assert_array_equal(x[0], streamed.stream(3)["train"][0])
    np.testing.assert_array_equal(x[1], plain.data["train"][0])
    assert group.chunk(3)["test"][0] is group.data["test"][0]
    (alone,) = trainer_of(plain).groups
    assert alone.chunk(3) is alone.data
    first, second = data_hashes(group).values()
    np.savez(tmp_path / "other.npz", x=np.random.rand(300, 3), y=labels(300))
    other = small_mlp(dataset=str(tmp_path / "other.npz"), stream_examples=40)
    (group,) = trainer_of(other, plain).groups
    assert [*data_hashes(group).values()] != [first, second]
    assert data_hashes(group)[plain.name] == second


def test_what_wraps_data_wraps_chunks(tmp_path):
    task = small_mlp(dataset=write_set(tmp_path), stream_examples=40)
    chosen = places_of(task, frozen=[], fresh=["*"])
    tuned = started(task, {}, chosen)
    assert jax.tree.structure(tuned.data) == jax.tree.structure(tuned.stream(2))
    x = tuned.stream(2)["task"]["train"][0]
    np.testing.assert_array_equal(x, task.stream(2)["train"][0])


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path):
    """Stopped in a chunk (after step 3), and at a border (after step 6)."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    streamed_run(straight)
    for last in (3, 6):
        shutil.copytree(straight, folder)
        for step in {3, 6, 7} - {*range(last + 1)}:
            shutil.rmtree(folder / rundir.CHECKPOINTS / str(step))
        recorder = Recorder()
        streamed_run(folder, resume=True, progress=recorder)
        assert recorder.steps[0][0] == last + 1
        assert not any("other data" in note for note in recorder.notes)
        assert_same_run(folder, straight)
        shutil.rmtree(folder)
    streamed_run(folder, "stream_every=7")
    assert untimed(folder)[:2] == untimed(straight)[:2]
    assert untimed(folder)[2:] != untimed(straight)[2:]


def test_a_chunk_is_loaded_ahead_and_waited_for():
    """A slow reader changes no bits; no swap compiles anything."""
    straight = streamed_run().metrics
    trainer, loaded, gate, compiles = streamed_trainer(), [], threading.Event(), []
    (group,) = trainer.groups

    def slowly(number):
        loaded.append(number)
        assert number == 0 or gate.wait(60)
        return group.streams[0](number)

    trainer = replace(trainer, groups=(replace(group, streams=(slowly,)),))
    state = trainer.init(jax.random.key(0))
    step, datas_after, losses = trainer.compile(state), feeding(trainer, 2, 0), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiles.append(event)
    )
    for done in range(7):
        if done == 1:
            wait_for(lambda: 1 in loaded)
            assert loaded == [0, 1]  # the next one, and no more
        if done == 2:
            threading.Timer(0.2, gate.set).start()
        if done == 3:
            wait_for(lambda: 2 in loaded)
            time.sleep(0.1)
            assert loaded == [0, 1, 2]
        state, metrics = step(state, datas_after(done))
        losses.append(float(metrics.loss))
    assert loaded == [0, 1, 2, 3]
    assert not [event for event in compiles if "compile" in event]
    assert losses == [line["loss"] for line in straight]


def streamed_trainer():
    pytest.importorskip("grain", reason="grain is not installed")
    return build(load_suite(TOY, ON), trust=True)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_streams_nothing_is_fed():
    trainer = build(load_suite(TOY), trust=True)
    datas_after = feeding(trainer, 1, 0)
    assert jax.tree.leaves(datas_after(5))[0] is jax.tree.leaves(trainer.datas)[0]


def test_a_chunk_is_on_the_device_and_the_first_one_is_not():
    trainer = streamed_trainer()
    (data,) = feeding(trainer, 2, 5)(5)
    (group,) = trainer.groups
    np.testing.assert_array_equal(data["train"], group.data["train"] + 2)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(data))
    assert isinstance(group.data["train"], np.ndarray)


@pytest.mark.parametrize("has_test", [False, True])
def test_rows_on_disk_are_those_in_memory(tmp_path, monkeypatch, has_test):
    """The test part of the IDX files is packed, and in memory."""
    x = np.random.RandomState(0).randint(0, 256, (200, 5, 4)).astype(np.uint8)
    write_idx(tmp_path / "idx", x, labels(200))
    tests = {"x_test": x[:30].astype(">f4"), "y_test": labels(30)} if has_test else {}
    np.savez(tmp_path / "set.npz", x=x.astype(">f4"), y=labels(200), **tests)
    if has_test:
        write_idx(tmp_path / "idx", x[:30], labels(30), prefix="t10k-", packed=True)
    for name in ("idx", "set.npz"):
        whole = disk.read(str(tmp_path / name))
        with monkeypatch.context() as patch:
            patch.setattr("lopt.disk.source.LARGEST", 1000)
            kept = disk.read(str(tmp_path / name))
        assert isinstance(whole.x, np.ndarray) and not isinstance(kept.x, np.ndarray)
        np.testing.assert_array_equal(kept.y, whole.y)
        assert (kept.image, kept.num_test) == (whole.image, whole.num_test)
        border = 200 % len(whole.y)
        for i in (np.array([3, border, 199, len(whole.y) - 1, 3]), np.array([7])):
            np.testing.assert_array_equal(kept.x[i], whole.x[i])


def test_a_run_from_disk_is_a_run_from_memory(tmp_path, monkeypatch):
    pytest.importorskip("grain", reason="grain is not installed")
    write_set(tmp_path)
    options = "dataset = 'a.npz'\nstream_examples = 70\nwidth = 4\ndepth = 1"
    text = TOY.read_text().replace('file = "toy.py"', f'family = "mlp"\n{options}')
    text = text.replace("toy.py", str(TOY.parent / "toy.py"))
    losses = []
    for name, largest in (("a.npz", 900), ("b.npz", 899)):
        monkeypatch.setattr("lopt.disk.source.LARGEST", largest)
        shutil.copy(tmp_path / "set.npz", tmp_path / name)
        (tmp_path / "suite.toml").write_text(text.replace("a.npz", name))
        chosen = ["outer_steps=4", "stream_every=1"]
        run = meta_train(tmp_path / "suite.toml", overrides=chosen, trust=True)
        losses.append([line["loss"] for line in run.metrics])
    assert losses[0] == losses[1]


def refused(function, *parts):
    with pytest.raises(ConfigError) as caught:
        function()
    for part in parts:
        assert part in caught.value.message
    return caught.value


@pytest.mark.parametrize("change", ["touched", "shorter", "gone", "nan"])
def test_a_file_that_changes_is_found(tmp_path, monkeypatch, change):
    monkeypatch.setattr("lopt.disk.source.LARGEST", 800)
    path = write_set(tmp_path)
    chunk = chunks(path, size=82)
    chunk(0)
    content = open(path, "rb").read()
    stat = os.stat(path)
    if change == "gone":
        os.rename(path, path + ".old")
        refused(lambda: chunk(1), f"cannot read `{path}`")
        return
    if change == "nan":
        start = content.index(b"x.npy") + 5
        start = content.index(b"\n", start) + 1
        content = content[:start] + b"\xff" * 3600 + content[start + 3600 :]
    elif change == "shorter":
        content = content[:2000]
    open(path, "wb").write(content)
    if change == "nan":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        refused(lambda: chunk(1), "must have in `x` finite numbers", "nan in example")
        return
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    error = refused(lambda: chunk(1), path, "must stay as it is while it is streamed")
    assert "resume" in error.hint


def test_a_chunk_that_cannot_be_read_ends_a_run_that_can_be_resumed(
    tmp_path, monkeypatch
):
    def refuse(group, number):
        if number == 2:
            raise ConfigError("no such chunk")
        return chunk(group, number)

    chunk, folder = TaskGroup.chunk, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TaskGroup, "chunk", refuse)
        refused(lambda: streamed_run(folder), "no such chunk")
    assert len(rundir.read_metrics(folder)) in (3, 4)
    streamed_run(folder, resume=True)
    streamed_run(tmp_path / "straight")
    assert_same_run(folder, tmp_path / "straight")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream_examples": 166}, "`stream_examples` must be an integer from 1 to 165"),
        ({"stream_examples": 0}, "`stream_examples` must be an integer from 1 to 165"),
        ({"stream_examples": 9, "num_examples": 9}, "absent where `num_examples` is"),
        ({"stream_examples": 120, "classes": [0, 1]}, "`stream_examples` must be"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    refused(lambda: small_mlp(dataset=write_set(tmp_path), **options), message)


def test_a_first_chunk_without_the_last_class(tmp_path):
    x = np.random.RandomState(0).rand(300, 3)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(300) // 2)
    path = str(tmp_path / "set.npz")
    refused(
        lambda: small_mlp(dataset=path, stream_examples=1, eval_examples=1),
        "`stream_examples` must be so many that the first chunk has the last class",
    )


def test_what_cannot_be_streamed(tmp_path, monkeypatch):
    x = np.random.RandomState(0).rand(300, 3).astype(np.float32)
    path, y = tmp_path / "set.npz", labels(300)
    monkeypatch.setattr("lopt.disk.source.LARGEST", 800)
    np.savez_compressed(path, x=x, y=y)
    error = refused(lambda: disk.read(str(path)), "at most 800 numbers, got 300 x 3")
    assert "plain IDX files" in error.hint
    np.savez(path, x=np.asfortranarray(x), y=y)
    refused(lambda: disk.read(str(path)), "at most 800 numbers, got 300 x 3")
    np.savez(path, x=x, y=y)
    small_mlp(dataset=str(path), stream_examples=165)
    monkeypatch.setattr("lopt.disk.source.LARGEST", 494)
    refused(
        lambda: small_mlp(dataset=str(path), stream_examples=165),
        "at most 494 numbers, got 165 x 3",
    )
    images, content = write_idx(tmp_path, x, y), idx(np.zeros((30, 9, 9)))
    images.write_bytes(content[:-1])
    refused(lambda: disk.read(str(images)), f"`{images}` must have {len(content)} bytes")


def test_without_grain(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    trainer = build(load_suite(TOY, ON), trust=True)
    error = refused(lambda: feeding(trainer, 2, 0), "needs the package `grain`")
    assert "lopt[streaming]" in error.hint
