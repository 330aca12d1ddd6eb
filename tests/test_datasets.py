"""Oracles: SHA256SUMS, an IDX reader of its own, published class counts, TFDS itself."""

import dataclasses
import fcntl
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import training
from PIL import Image

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.data import datasets, idx
from mnistlab.data import tfds as ours
from mnistlab.data.datasets import Split
from mnistlab.errors import UserError

ARCHIVES = Path(datasets.__file__).parent / "archives"
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.fixture(scope="session")
def data_dir(shared_cache):
    """The session's own, which was empty when it began."""
    return shared_cache / "mnistlab" / "datasets"


@pytest.fixture(scope="session")
def mnist(data_dir):
    return datasets.load("mnist", data_dir=data_dir)


@pytest.fixture(scope="session")
def fashion(data_dir):
    return datasets.load("fashion_mnist", data_dir=data_dir)


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def tiny_arrays(num_train=60, num_test=20, seed=0):
    """{file: uint8 array}: digits with noise, some of them duplicates under another label."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for prefix, count in (("train", num_train), ("t10k", num_test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 3, (count, 28, 28), np.uint8) * 100
        arrays[f"{prefix}-images-idx3-ubyte"][1:4] = arrays[f"{prefix}-images-idx3-ubyte"][0]
        arrays[f"{prefix}-labels-idx1-ubyte"] = rng.integers(0, 10, count).astype(np.uint8)
    return arrays


@pytest.fixture
def tiny(tmp_path):
    """Archives of a small MNIST: a folder as mnistlab/archives is."""
    folder = tmp_path / "archives" / "mnist"
    folder.mkdir(parents=True)
    sums = []
    for name, array in tiny_arrays().items():
        data = idx_bytes(array)
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder.parent


def load_tiny(tmp_path, archives, order="tfds", root="data"):
    return datasets._load("mnist", tmp_path / root, order, None, archives)


def read_idx(path):
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8)[4 + 4 * data[3] :].reshape(shape), hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_file_order_equals_the_archives(name, data_dir, mnist, fashion):
    dataset = datasets.load(name, data_dir=data_dir, order="file")
    sums = dict(reversed(line.split()) for line in (ARCHIVES / name / "SHA256SUMS").read_text().splitlines())
    for split, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
        for kind, array in (("images-idx3-ubyte", split.image[..., 0]), ("labels-idx1-ubyte", split.label)):
            expected, digest = read_idx(ARCHIVES / name / f"{prefix}-{kind}.gz")
            assert digest == sums[f"{prefix}-{kind}"]
            np.testing.assert_array_equal(array, expected)
        assert (split.image.dtype, split.label.dtype) == (np.uint8, np.int32)
        assert not split.image.flags.writeable and not split.label.flags.writeable
    assert (dataset.train.image.shape, dataset.test.image.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))


def test_published_counts_names_and_first_label(data_dir, mnist, fashion):
    assert np.bincount(mnist.train.label).tolist() == MNIST_TRAIN_COUNTS
    assert np.bincount(fashion.train.label).tolist() == [6000] * 10
    assert np.bincount(fashion.test.label).tolist() == [1000] * 10
    assert mnist.class_names == tuple("0123456789")
    assert (fashion.class_names[0], fashion.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert datasets.load("mnist", data_dir=data_dir, order="file").train.label[0] == 5
    assert mnist.fingerprint != fashion.fingerprint
    assert datasets.load("mnist", data_dir=data_dir, order="file").fingerprint == mnist.fingerprint


def test_a_validation_set_of_its_own_is_part_of_the_fingerprint(mnist):
    with_val = [
        dataclasses.replace(mnist, val=Split(mnist.test.image[:9], label)).fingerprint
        for label in (mnist.test.label[:9], mnist.test.label[1:10])
    ]
    assert len({mnist.fingerprint, *with_val}) == 3


def test_arrays_made_by_hand_have_the_fingerprint_of_what_they_hold(mnist):
    copies = [Split(np.array(split.image), split.label.astype(np.int64)) for split in (mnist.train, mnist.test)]
    assert datasets.Dataset("mine", "1", mnist.class_names, *copies).fingerprint == mnist.fingerprint
    copies[0].image[59_999, 0, 0, 0] ^= 1
    assert datasets.Dataset("mine", "1", mnist.class_names, *copies).fingerprint != mnist.fingerprint
    replaced = dataclasses.replace(mnist, test=Split(mnist.test.image[:10], mnist.test.label[:10]))
    assert replaced.fingerprint != mnist.fingerprint


def test_the_stock_builder_opens_it_and_gives_the_same_examples(data_dir, mnist):
    builder = tfds.builder("mnist", data_dir=data_dir)
    assert type(builder).__module__.startswith("tensorflow_datasets")
    assert (str(builder.version), builder.info.splits["train"].num_examples) == (mnist.version, 60000)
    examples = builder.as_data_source("test").__getitems__(range(0, 10000, 50))  # decoded by TFDS and Pillow
    np.testing.assert_array_equal(np.stack([e["image"] for e in examples]), mnist.test.image[::50])
    assert [e["label"] for e in examples] == mnist.test.label[::50].tolist()


def test_the_order_of_tfds_is_a_shuffle_by_content_too(tiny, tmp_path):
    """The permutation from the hash must place every (image, label), duplicates too, where TFDS wrote it."""
    shuffled, filed = (load_tiny(tmp_path, tiny, order) for order in ("tfds", "file"))
    pairs = [
        [(image.tobytes(), int(label)) for image, label in zip(*dataset.train, strict=True)]
        for dataset in (shuffled, filed)
    ]
    assert sorted(pairs[0]) == sorted(pairs[1]) and pairs[0] != pairs[1]
    assert shuffled.fingerprint == filed.fingerprint


def test_neither_tensorflow_nor_a_needless_tfds_is_imported(tiny, tmp_path):
    script = textwrap.dedent(f"""
        import sys, time, pathlib
        from mnistlab.data import datasets
        archives, root = pathlib.Path({str(tiny)!r}), pathlib.Path({str(tmp_path / "data")!r})
        datasets._load("mnist", root, "tfds", None, archives)
        print("tensorflow" in sys.modules, "tensorflow_datasets" in sys.modules)
    """)
    first, second = (subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(2))
    assert first.stdout.split() == ["False", "True"], first.stderr
    assert second.stdout.split() == ["False", "False"], second.stderr
    assert first.stderr == ""  # no progress bars, no warnings


def test_a_later_load_costs_the_processor_little_more_than_the_digests_of_the_arrays(data_dir, mnist):
    arrays = [array for split in (mnist.train, mnist.test) for array in (split.image, split.label, split.label)]

    def digests():
        for array in arrays:
            hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()

    def seconds(function):
        start = time.process_time()
        function()
        return time.process_time() - start

    load = functools.partial(datasets.load, "mnist", data_dir=data_dir)
    rounds = [(seconds(load), seconds(digests)) for _ in range(5)]  # the first load of all takes some 50 times as long
    assert min(loads for loads, _ in rounds) < 2 * min(hashes for _, hashes in rounds)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "index", "class_names", "header"])
def test_a_damaged_cache_is_decoded_again(damage, tiny, tmp_path):
    before = load_tiny(tmp_path, tiny)
    image, label = before.train.image.copy(), before.train.label.copy()
    folder = tmp_path / "data" / "mnist" / before.version / "decoded"
    path = folder / ("index" if damage in ("index", "class_names") else "train_image.npy")
    data, times = bytearray(path.read_bytes()), path.stat()
    if damage == "flip":
        data[-5] ^= 1
    elif damage == "header":
        data[10] ^= 1
    elif damage == "class_names":
        data = data.replace(b'"7"', b'"1"')
    replacement = path.with_suffix(".new")  # a new inode: the arrays above stay as they are
    replacement.write_bytes(data[: len(data) // 2] if damage in ("truncate", "index") else data)
    replacement.replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # same time and, if flipped, size: only the digest tells
    if damage == "delete":
        path.unlink()
    assert datasets._open(tmp_path / "data", "mnist", "tfds", tiny / "mnist") is None
    after = load_tiny(tmp_path, tiny)
    np.testing.assert_array_equal(after.train.image, image)
    np.testing.assert_array_equal(after.train.label, label)
    assert after.fingerprint == before.fingerprint


def test_a_cache_of_another_tfds_is_stale(tiny, tmp_path, monkeypatch):
    version = load_tiny(tmp_path, tiny).version
    assert datasets._open(tmp_path / "data", "mnist", "tfds", tiny / "mnist").version == version
    monkeypatch.setattr(datasets.importlib.metadata, "version", lambda name: "0.0.0")
    assert datasets._open(tmp_path / "data", "mnist", "tfds", tiny / "mnist") is None


def test_records_that_differ_from_the_archives_are_refused(tiny, tmp_path):
    version = load_tiny(tmp_path, tiny).version
    folder = tmp_path / "data" / "mnist" / version
    shutil.rmtree(folder / "decoded")
    (tmp_path / "data" / "mnist" / version / "mnist-train.array_record-00000-of-00001").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=f"{folder}.*delete that folder"):
        load_tiny(tmp_path, tiny)
    shutil.rmtree(folder)
    other = tiny.parent / "other" / "mnist"  # a whole copy, of other images
    shutil.copytree(tiny / "mnist", other)
    data = idx_bytes(tiny_arrays(seed=1)["train-images-idx3-ubyte"])
    (other / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    sums = (other / "SHA256SUMS").read_text().splitlines()
    (other / "SHA256SUMS").write_text(
        "\n".join(f"{hashlib.sha256(data).hexdigest()}  {s.split()[1]}" if "train-im" in s else s for s in sums)
    )
    load_tiny(tmp_path, other.parent)
    with pytest.raises(UserError, match="does not hold the images"):
        load_tiny(tmp_path, tiny)


def test_pngs_decode_in_pillow_and_foreign_pngs_go_to_tfds(tiny, tmp_path):
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28, 1)
    png = ours._encode_png(pixels)
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert (image.mode, image.size) == ("L", (28, 28))
        np.testing.assert_array_equal(np.asarray(image), pixels[..., 0])
    np.testing.assert_array_equal(ours._decode_pngs([png, png], (28, 28, 1)), np.stack([pixels, pixels]))
    foreign = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(foreign, "PNG", optimize=True)  # filtered
    assert ours._decode_pngs([png, foreign.getvalue()], (28, 28, 1)) is None


def test_foreign_pngs_in_the_records_are_read(tiny, tmp_path, monkeypatch):
    def pillow(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
        return buffer.getvalue()

    before = load_tiny(tmp_path, tiny)
    monkeypatch.setattr(ours, "_encode_png", pillow)
    theirs = load_tiny(tmp_path, tiny, root="other")
    assert theirs.fingerprint == before.fingerprint


# Errors: one clear line each, nothing left behind.


def left_behind(root):
    return sorted(p.name for p in root.rglob("*") if p.is_file() and not p.name.endswith(".lock"))


@pytest.mark.parametrize("damage", ["content", "gzip", "missing", "sums"])
def test_damaged_archives(damage, tiny, tmp_path):
    path = tiny / "mnist" / "t10k-labels-idx1-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    expected = hashlib.sha256(data).hexdigest()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    if damage == "content":
        path.write_bytes(gzip.compress(changed))
        pattern = f"t10k-labels-idx1-ubyte.gz.*{hashlib.sha256(changed).hexdigest()}.*{expected}"
    elif damage == "gzip":
        path.write_bytes(path.read_bytes()[:-12])
        pattern = "t10k-labels-idx1-ubyte.gz is damaged"
    elif damage == "missing":
        path.unlink()
        pattern = "lacks t10k-labels-idx1-ubyte.gz"
    else:
        (tiny / "mnist" / "SHA256SUMS").unlink()
        pattern = "lacks SHA256SUMS"
    with pytest.raises(UserError, match=pattern) as caught:
        load_tiny(tmp_path, tiny)
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path / "data") == []


def test_idx_headers():
    good = idx_bytes(np.zeros((2, 3), np.uint8))
    assert idx.parse_idx(good, Path("x")).shape == (2, 3)
    for bad in (b"", b"\0\0\x08", b"\0\0\x0d" + good[3:], good[:-1], good + b"\0", good[:9]):
        with pytest.raises(UserError, match="x is"):
            idx.parse_idx(bad, Path("x"))


def test_unknown_name_and_order(tmp_path):
    with pytest.raises(
        UserError, match=r"cifar10.* is not prepared.* expected one of mnist, fashion_mnist, kmnist, emnist/"
    ):
        datasets.load("cifar10", data_dir=tmp_path)
    with pytest.raises(UserError, match="unknown order 'random'"):
        datasets.load("mnist", data_dir=tmp_path, order="random")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write in {tmp_path}/file/below: Not a directory"):
        load_tiny(tmp_path, tiny, root="file/below")


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))  # no file grows beyond, as on a disk that is full
    try:
        with pytest.raises(UserError, match=r"cannot write in .*: File too large; free the space") as caught:
            load_tiny(tmp_path, tiny)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value) and left_behind(tmp_path / "data") == []
    load_tiny(tmp_path, tiny)


def test_a_runtime_error_that_is_no_failed_write_stays_one(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), datasets._writing(tmp_path):
        raise RuntimeError("a bug")


def test_a_lock_that_is_a_link_is_refused_and_its_target_is_whole(tiny, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".mnist.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"\.mnist\.lock in it is a symbolic link") as caught:
        load_tiny(tmp_path, tiny)
    assert "\n" not in str(caught.value) and (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["index", "train_label.npy"])
def test_a_fifo_among_the_decoded_arrays_is_not_waited_for(tiny, tmp_path, name):
    before = load_tiny(tmp_path, tiny)
    (path,) = (tmp_path / "data" / "mnist").glob(f"*/decoded/{name}")
    path.unlink()
    os.mkfifo(path)
    assert load_tiny(tmp_path, tiny).fingerprint == before.fingerprint
    assert path.is_file()  # decoded again


def test_a_tfrecord_copy_is_refused_with_its_folder(tiny, tmp_path):
    version = load_tiny(tmp_path, tiny).version
    folder = tmp_path / "data" / "mnist" / version
    shutil.rmtree(folder / "decoded")
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in folder.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    before = left_behind(tmp_path / "data")
    with pytest.raises(UserError, match=f"{folder} is a tfrecord copy.*another data_dir"):
        load_tiny(tmp_path, tiny)
    assert left_behind(tmp_path / "data") == before


def test_no_network_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(ours.socket, "create_connection", refuse)
    monkeypatch.setattr(ours.urllib.request, "getproxies", dict)
    with pytest.raises(
        UserError, match=r"cannot download kmnist: Name or .*train-images-idx3-ubyte.gz.*manual_dir"
    ) as e:
        datasets.load("kmnist", data_dir=tmp_path)
    assert "\n" not in str(e.value) and left_behind(tmp_path) == []


# Datasets from the user's own files.


def register(monkeypatch, paths):
    """Lets TFDS expect the checksums of `paths`, {url: path}, in place of those of the originals."""
    from tensorflow_datasets.core.download import checksums

    infos = dict(checksums.get_all_url_infos()) | {url: checksums.compute_url_info(p) for url, p in paths.items()}
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: dict(infos))


def test_kmnist_from_a_manual_dir(tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    manual.mkdir()
    arrays = tiny_arrays()
    for name, array in list(arrays.items())[:2]:
        (manual / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    with pytest.raises(UserError, match=r"lacks t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz; it must hold"):
        datasets.load("kmnist", data_dir=tmp_path / "data", manual_dir=manual)
    for name, array in arrays.items():
        (manual / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    with pytest.raises(UserError, match=r"wrong file: .*ubyte.gz.*Expected.*Got") as caught:
        datasets.load("kmnist", data_dir=tmp_path / "data", manual_dir=manual)
    assert "\n" not in str(caught.value) and left_behind(tmp_path / "data") == []
    url = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    register(monkeypatch, {f"{url}{name}.gz": manual / f"{name}.gz" for name in arrays})
    dataset = datasets.load("kmnist", data_dir=tmp_path / "data", order="file", manual_dir=manual)
    np.testing.assert_array_equal(dataset.train.image[..., 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(dataset.test.label, arrays["t10k-labels-idx1-ubyte"])
    assert dataset.class_names[:2] == ("o", "ki")
    shutil.rmtree(manual)
    assert datasets.load("kmnist", data_dir=tmp_path / "data").fingerprint == dataset.fingerprint


def test_kmnist_is_downloaded_once(tmp_path, monkeypatch):
    """From a server on this machine, in place of the original one; then again without it, from TFDS's downloads."""
    served, arrays = tmp_path / "served", tiny_arrays()
    served.mkdir()
    for name, array in arrays.items():
        (served / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    monkeypatch.setattr(ours.urllib.request, "getproxies", dict)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(tfds.builder_cls("kmnist"), "URL", url)
        register(monkeypatch, {f"{url}{name}.gz": served / f"{name}.gz" for name in arrays})
        dataset = datasets.load("kmnist", data_dir=tmp_path / "data", order="file")
        server.shutdown()
    np.testing.assert_array_equal(dataset.train.image[..., 0], arrays["train-images-idx3-ubyte"])
    shutil.rmtree(tmp_path / "data" / "kmnist")
    assert datasets.load("kmnist", data_dir=tmp_path / "data").fingerprint == dataset.fingerprint


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_emnist_from_a_manual_dir_takes_the_first_rows_as_stock_does(tmp_path, monkeypatch):
    config = tfds.builder_cls("emnist").builder_configs["letters"]
    assert (config.train_examples, config.test_examples) == (88800, 14800)
    monkeypatch.setattr(config, "train_examples", 50)
    monkeypatch.setattr(config, "test_examples", 10)
    arrays = {name.replace("t10k", "test"): array for name, array in tiny_arrays().items()}
    manual = tmp_path / "manual"
    manual.mkdir()
    with zipfile.ZipFile(manual / "gzip.zip", "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"gzip/emnist-letters-{name}.gz", gzip.compress(idx_bytes(array)))
    register(monkeypatch, {"https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip": manual / "gzip.zip"})
    dataset = datasets.load("emnist/letters", data_dir=tmp_path / "data", order="file", manual_dir=manual)
    np.testing.assert_array_equal(dataset.train.image[..., 0], arrays["train-images-idx3-ubyte"][:50])
    np.testing.assert_array_equal(dataset.test.label, arrays["test-labels-idx1-ubyte"][:10])
    assert (len(dataset.class_names), dataset.version) == (37, "3.1.0")
    assert tfds.builder("emnist/letters", data_dir=tmp_path / "data").info.splits["train"].num_examples == 50
    with pytest.raises(UserError, match=r"gzip.zip is damaged: .*emnist-digits-train"):
        datasets.load("emnist/digits", data_dir=tmp_path / "data", manual_dir=manual)


# Processes.


def start_process(tmp_path, archives, before=""):
    script = textwrap.dedent(f"""
        import pathlib, sys, time
        from mnistlab.data import datasets
        write = datasets._write_decoded
        def say(text): print(text, file=sys.stderr, flush=True)
        {before}
        archives, root = pathlib.Path({str(archives)!r}), pathlib.Path({str(tmp_path / "data")!r})
        say(datasets._load("mnist", root, "tfds", None, archives).fingerprint)
    """)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_prepare_once(tiny, tmp_path):
    slow = "datasets._write_decoded = lambda *a: (time.sleep(0.5), say('wrote'), write(*a))"
    results = [p.communicate() for p in [start_process(tmp_path, tiny, slow) for _ in range(2)]]
    lines = [err.split() for _, err in results]
    assert sorted(map(len, lines)) == [1, 2], results  # one wrote, both loaded
    assert lines[0][-1] == lines[1][-1] == load_tiny(tmp_path, tiny).fingerprint


def test_a_killed_run_is_cleaned_up_by_the_next(tiny, tmp_path):
    process = start_process(tmp_path, tiny, "datasets._write_decoded = lambda *a: (say('here'), time.sleep(60))")
    assert process.stderr.readline() == "here\n"
    process.kill()
    process.communicate()
    root = tmp_path / "data"
    assert (root / ".preparing.mnist").is_dir() and not (root / "mnist").exists()
    version = load_tiny(tmp_path, tiny).version
    assert not (root / ".preparing.mnist").exists()
    assert [p.name for p in (root / "mnist").iterdir()] == [version]
    assert not list(root.rglob("incomplete*"))


def test_a_read_only_copy_needs_no_lock(tiny, tmp_path):
    load_tiny(tmp_path, tiny)
    with (tmp_path / "data" / ".mnist.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # would wait for ever
        load_tiny(tmp_path, tiny)


def test_random_split():
    train, rest = datasets.random_split(60000, 0.8, seed=3)
    assert (train.dtype, rest.dtype, train.shape, rest.shape) == (np.int32, np.int32, (48000,), (12000,))
    assert np.array_equal(np.sort(np.concatenate([train, rest])), np.arange(60000))
    assert np.array_equal(train, datasets.random_split(60000, 0.8, seed=3)[0])
    other = datasets.random_split(60000, 0.8, seed=4)[0]
    assert abs(len(np.intersect1d(train, other)) - 0.8 * 48000) < 5 * 44  # hypergeometric: sd 43.8
    draws = np.random.Generator(np.random.PCG64(3)).integers(0, 2**64, 12, np.uint64)  # the same stream by another way
    assert np.array_equal(np.concatenate(datasets.random_split(12, 0.5, seed=3)), np.argsort(draws))
    for fraction, seed in ((0.0, 0), (1.0, 0), (float("nan"), 0), (0.5, -1)):
        with pytest.raises(UserError):
            datasets.random_split(10, fraction, seed)


def test_default_data_dir_honours_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.default_data_dir() == tmp_path / "mnistlab" / "datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert datasets.default_data_dir() == tmp_path / "home" / ".cache" / "mnistlab" / "datasets"


# Streaming


def test_a_data_source_reads_what_it_is_asked_for(tiny, tmp_path):
    whole = load_tiny(tmp_path, tiny)
    streamed = datasets.from_builder(tfds.builder("mnist", data_dir=tmp_path / "data"))
    for split in ("train", "test"):
        array, source = getattr(whole, split).image, getattr(streamed, split).image
        assert (source.shape, source.dtype, len(source)) == (array.shape, array.dtype, len(array))
        for index in (np.array([[3, 0], [3, 19]]), slice(2, 9), np.array([-1]), slice(None)):
            np.testing.assert_array_equal(source[index], array[index])
        np.testing.assert_array_equal(getattr(streamed, split).label, getattr(whole, split).label)
    assert streamed.class_names == whole.class_names and streamed.name == "mnist"
    config = TrainConfig("dense", optimizer=OptimConfig("sgd", 0.1), batch_size=16, num_epochs=2)
    resident = training.run(config, whole, (0, 1))
    for history in (training.run(config, dataset, (0, 1), stream_megabytes=2).history for dataset in (whole, streamed)):
        for name, values in resident.history.items():
            np.testing.assert_array_equal(history[name], values)


def test_a_dataset_that_is_not_prepared_cannot_be_streamed(tmp_path):
    with pytest.raises(UserError, match="array_record"):
        datasets.from_builder(tfds.builder("mnist", data_dir=tmp_path))


def test_a_folder_that_was_copied_in_half_is_named(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no whole dataset; delete that folder and run again"):
        datasets.load("mnist", data_dir=tmp_path)
