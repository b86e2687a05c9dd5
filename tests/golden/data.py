"""Data sets of ten training and ten test images in the layouts of other programs, as those programs write them.

The byte of image n at channel c, row y and column x is (37 n + 61 c + 5 (y // 2) + 3 (c + 1) (x // 4)) mod
256. Images 0 to 9 are for tests, 10 to 19 for training; the class of an image is the last digit of n.
tests/it/layouts.rs uses the same formula.

The files in `one` have one or two images, for the mutation test. Writes tests/golden/data. Every file is
compressed with gzip, which the test undoes: whole images would take 30 kB.

  python2 tests/golden/data.py   the pickles of CIFAR as they are published: Python 2, protocol 2
  python3 tests/golden/data.py   the rest: pickles of Python 3, MAT-files, NPZ and NPY, Parquet

Needs NumPy; with Python 3 also SciPy, Pillow and datasets. The versions are in versions.txt.
"""

from __future__ import print_function

import gzip
import io
import os
import pickle
import sys

import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
TEST, TRAIN = range(10), range(10, 20)


def images(numbers):
    """[N, 3, 32, 32]"""
    n, c, y, x = np.ogrid[:20, :3, :32, :32]
    return ((37 * n + 61 * c + 5 * (y // 2) + 3 * (c + 1) * (x // 4)) % 256).astype(np.uint8)[list(numbers)]


def labels(numbers):
    return [n % 10 for n in numbers]


def write(name, content):
    path = os.path.join(HERE, name + ".gz")
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, 0) as packed:
            packed.write(content)


def python_2():
    digits = [str(digit) for digit in range(10)]
    for name, numbers in ("test_batch", TEST), ("data_batch_1", TRAIN):
        batch = {
            "batch_label": name,
            "labels": labels(numbers),
            "data": images(numbers).reshape(10, 3072),
            "filenames": ["%d.png" % n for n in numbers],
        }
        write("python2/cifar-10-batches-py/" + name, pickle.dumps(batch, 2))
    meta = {"num_cases_per_batch": 10, "label_names": digits, "num_vis": 3072}
    write("python2/cifar-10-batches-py/batches.meta", pickle.dumps(meta, 2))
    for name, numbers in ("test", TEST), ("train", TRAIN):
        batch = {
            "batch_label": name,
            "fine_labels": labels(numbers),
            "coarse_labels": [n // 2 % 5 for n in numbers],
            "data": images(numbers).reshape(10, 3072),
            "filenames": ["%d.png" % n for n in numbers],
        }
        write("python2/cifar-100-python/" + name, pickle.dumps(batch, 2))
    meta = {"fine_label_names": digits, "coarse_label_names": ["a", "b", "c", "d", "e"]}
    write("python2/cifar-100-python/meta", pickle.dumps(meta, 2))
    one = {"labels": [7], "data": images([7]).reshape(1, 3072)}
    write("one/pickle/python2", pickle.dumps(one, 2))
    write("one/pickle-of-names/python2", pickle.dumps({"label_names": ["cat", "dog"]}, 2))


def python_3():
    import datasets
    from PIL import Image
    from scipy.io import savemat

    def saved(save, *arguments, **options):
        file = io.BytesIO()
        save(file, *arguments, **options)
        return file.getvalue()

    # The keys are bytes, as pickle.load(..., encoding="bytes") returns them from files of Python 2. Labels
    # are a list or an array.
    digits = [str(digit).encode() for digit in range(10)]
    for protocol in 2, 3, 4, 5:
        folder = "python3-protocol-%d/cifar-10-batches-py/" % protocol
        for name, numbers in ("test_batch", TEST), ("data_batch_1", TRAIN):
            both = labels(numbers)
            batch = {b"labels": np.array(both) if protocol > 3 else both, b"data": images(numbers).reshape(10, 3072)}
            write(folder + name, pickle.dumps(batch, protocol))
        write(folder + "batches.meta", pickle.dumps({b"label_names": digits}, protocol))
        one = {b"labels": np.array([7]), b"data": images([7]).reshape(1, 3072)}
        write("one/pickle/python3-protocol-%d" % protocol, pickle.dumps(one, protocol))

    for is_compressed in False, True:
        folder = "svhn-compressed/" if is_compressed else "svhn/"
        for name, numbers in ("test", TEST), ("train", TRAIN):
            # The label of the digit 0 is 10.
            y = np.array([[label or 10] for label in labels(numbers)], np.uint8 if is_compressed else np.float64)
            x = images(numbers).transpose(2, 3, 1, 0)
            content = saved(savemat, {"other": np.eye(3), "X": x, "y": y}, do_compression=is_compressed)
            # The header holds the time.
            header = b"MATLAB 5.0 MAT-file, written by SciPy".ljust(116) + content[116:128]
            write(folder + name + "_32x32.mat", header + content[128:])
        content = saved(savemat, {"X": x[:4, :5, :, :2], "y": y[:2]}, do_compression=is_compressed)
        write("one/mat/%s.mat" % folder[:-1], header + content[128:])

    last, first = (images(range(20)).transpose(0, 2, 3, 1), images(range(20)))
    y = np.array(labels(range(20)))
    write(
        "npz/keras.npz",
        saved(np.savez, x_train=last[10:], y_train=y[10:].astype(np.uint8), x_test=last[:10], y_test=y[:10]),
    )
    medmnist = {
        "train_images": last[10:], "val_images": last[5:7], "test_images": last[:10],
        "train_labels": y[10:, None], "val_labels": y[5:7, None], "test_labels": y[:10, None],
    }
    write("npz/medmnist.npz", saved(np.savez_compressed, **medmnist))
    names = np.array(["%d" % digit for digit in range(10)])
    undivided = {"images": first[:10], "labels": y[:10].astype(np.int32), "class_names": names}
    write("npz/planes.npz", saved(np.savez_compressed, **undivided))
    fortran = {"x": np.asfortranarray(last[:10]), "y": y[:10].astype(">i2")}
    write("npz/fortran.npz", saved(np.savez, **fortran))
    write("npz/grey.npz", saved(np.savez, data=first[:10, 0], labels=y[:10].astype(np.float32)))
    write("npy/corruption.npy", saved(np.save, last[:10]))
    write("npy/labels.npy", saved(np.save, y[:10]))
    two, names = last[:2, :4, :5], np.array(["cat", "dog"])
    write("one/npz/split.npz", saved(np.savez, x_train=two, y_train=y[:2], x_test=two, y_test=y[:2]))
    write("one/npz/names.npz", saved(np.savez_compressed, images=two, labels=y[:2, None], class_names=names))
    write("one/npy/last.npy", saved(np.save, two))
    write("one/npy/grey.npy", saved(np.save, np.asfortranarray(two[..., 0])))

    features = datasets.Features({
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["%d" % digit for digit in range(10)]),
    })
    for split, numbers in ("test", TEST), ("train", TRAIN):
        for shard in 0, 1:
            half = numbers[5 * shard:5 * shard + 5]
            content = {
                "image": [Image.fromarray(last[n]) for n in half],
                "caption": ["image %d" % n for n in half],
                "label": labels(half),
            }
            table = datasets.Dataset.from_dict(content, features=features)
            write("parquet/data/%s-0000%d-of-00002.parquet" % (split, shard), saved(table.to_parquet))
    content = {"image": [Image.fromarray(image) for image in two], "caption": ["a", "b"], "label": [0, 1]}
    write("one/parquet/two.parquet", saved(datasets.Dataset.from_dict(content, features=features).to_parquet))


if __name__ == "__main__":
    python_2() if sys.version_info[0] == 2 else python_3()
