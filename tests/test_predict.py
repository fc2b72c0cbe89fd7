"""The command: what it finds in files, what it leaves, and what it says to bad input."""

import json
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from sssd.data import read_image
from sssd.engine.prediction_files import find_files
from sssd.engine.runs import load
from sssd.engine.video import frames
from sssd.predict import main


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture
def images(run: Path, tmp_path: Path) -> Path:
    """Two images of one name in two folders, and one of another size."""
    source, folder = run.parent / "data" / "val", tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    shutil.copy(source / "1.png", folder / "1.png")
    shutil.copy(source / "2.png", folder / "below" / "1.png")
    Image.open(source / "3.png").resize((90, 50)).save(folder / "wide.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the error's text of a command that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, " ".join(capsys.readouterr().err.split())


def results_in(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Annotations of a COCO json by the name of their image's file."""
    document = json.loads(path.read_text())
    results: dict[str, list] = {Path(row["file_name"]).name: [] for row in document["images"]}
    names = {row["id"]: Path(row["file_name"]).name for row in document["images"]}
    for row in document["annotations"]:
        results[names[row["image_id"]]].append(row)
    return results


def test_a_folder_becomes_lines_json_and_pictures(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "found.json"
    Image.new("RGB", (64, 64)).save(images / "black.png")
    (tmp_path / "run").mkdir()
    for part in ("config.json", "model.safetensors"):
        shutil.copy(run / part, tmp_path / "run" / part)
    (everything,) = load(run).predict(images / "wide.jpg", threshold=0)
    median = everything.scores.median().item()
    thresholds = {"all": median, "by_class": {}, "iou": 0.5}
    (tmp_path / "run" / "thresholds.json").write_text(json.dumps(thresholds))
    arguments = [str(tmp_path / "run"), str(images), "--out", str(out), "--json", str(file)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    results = results_in(file)
    (found,) = load(run).predict(images / "wide.jpg", threshold=median)
    assert 0 < len(found) < len(everything)
    assert [row["score"] for row in results["wide.jpg"]] == pytest.approx(found.scores.tolist())
    x1, y1, x2, y2 = found.boxes[0].tolist()
    assert results["wide.jpg"][0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    lines = said.out.splitlines()
    expected = [images / name for name in ("1.png", "below/1.png", "black.png", "wide.jpg")]
    assert [line.rpartition(": ")[0] for line in lines] == list(map(str, expected))
    assert lines[-1].endswith(f": {found}")
    assert said.err == ""
    pictures = sorted(path.name for path in out.iterdir())
    assert pictures == ["1-2.png", "1.png", "black.png", "wide.png"]
    assert Image.open(out / "wide.png").size == (90, 50)
    document = json.loads(file.read_text())
    assert document["categories"] == [{"id": 1, "name": "kind0"}, {"id": 2, "name": "kind1"}]
    truth = COCO()
    truth.dataset = {"images": document["images"], "categories": document["categories"]}
    truth.createIndex()
    detections = truth.loadRes(document["annotations"])
    assert len(detections.getAnnIds()) == sum(map(len, results.values())) > 0
    assert COCO(file).getImgIds() == [1, 2, 3, 4]


def test_unreadable_files_are_named_at_the_end_and_the_others_done(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    out, file = tmp_path / "out", tmp_path / "found.json"
    arguments = [str(run), str(images), str(images / "absent.png"), "--json", str(file)]
    more = ["--threshold", "0.3", "--max-detections", "1000"]
    assert main([*arguments, "--out", str(out), *more]) == 1
    *named, count = capsys.readouterr().err.splitlines()
    assert "broken.png: the image cannot be read" in named[0]
    assert named[1].endswith("absent.png: the image file does not exist")
    assert count == "error: 2 of 5 files failed"
    assert len(list(out.iterdir())) == 3
    assert set(results_in(file)) == {"1.png", "wide.jpg"}


def test_without_thresholds_it_says_which_one_it_takes(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = tmp_path / "run"
    shutil.copytree(run, without, ignore=shutil.ignore_patterns("thresholds.json", "checkpoints"))
    assert main([str(without), str(images / "1.png"), "--max-detections", "1000"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {without} has no thresholds.json")
    assert line.endswith("a score threshold of 0.3 is used")


def command(run: Path, images: Path, out: Path) -> list[str]:
    """Arguments that leave pictures and found.json in a folder."""
    places = ["--out", str(out), "--json", str(out / "found.json"), "--threshold", "0.3"]
    return [str(run), str(images), *places]


def found_in(out: Path) -> set[str]:
    """Names of the files that the results are of."""
    return set(results_in(out / "found.json"))


def on_reading(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object]) -> None:
    """Lets something happen when a file of this name is read; what it returns are the pixels."""

    def read(path: Path, *rest: Any) -> object:
        happened = happens() if path.name == name else None
        return read_image(path, *rest) if happened is None else happened

    monkeypatch.setattr("sssd.data.images.read_image", read)


def test_an_image_beyond_the_memory_is_named_and_the_others_done(
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    huge = torch.zeros(1, dtype=torch.uint8).expand(3, 2**22, 2**22)  # 192 TiB in float32
    shutil.copy(images / "1.png", images / "huge.png")
    on_reading(monkeypatch, "huge.png", lambda: huge)
    assert main(command(run, images, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert re.search(
        r"error: \S+huge.png: RuntimeError: .*memory.*\n.* 1 of 4 files failed", message
    )
    assert found_in(tmp_path / "out") == {"1.png", "wide.jpg"}


@pytest.mark.parametrize(("signals", "kept"), [(1, {"1.png", "2.png"}), (2, {"1.png"})])
def test_ctrl_c_ends_after_the_image_at_hand_and_a_second_one_at_once(
    signals: int,
    kept: set[str],
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt() -> None:
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    (images / "below" / "1.png").rename(images / "2.png")
    on_reading(monkeypatch, "2.png", interrupt)
    # Whoever runs the tests in the background may have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(command(run, images, out))
    except KeyboardInterrupt:
        status = None
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == (128 + signal.SIGINT if signals == 1 else None)
    assert signals == 2 or "stopped after 2 of 3 files" in capsys.readouterr().err
    assert found_in(out) == kept


def test_what_was_found_is_there_before_the_end(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr("sssd.predict.WRITE_EVERY", 0.0)
    on_reading(monkeypatch, "wide.jpg", lambda: seen.append(found_in(tmp_path / "out")))
    assert main(command(run, images, tmp_path / "out")) == 0
    assert seen == [{"1.png"}]


def test_of_a_folder_only_images_are_read(run: Path, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "folder")
    for name in ("._1.png", "paper.pdf", "features.h5"):  # macOS's, and what Pillow can save
        (folder / name).write_bytes(b"no image")
    assert main(command(run, folder, tmp_path / "out")) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_it_never_reads_what_it_drew_nor_writes_over_what_it_did_not(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for out in (images / "out", images / "out", images / "other"):
        with warnings.catch_warnings(record=True):
            assert main(command(run, images, out)) == 0
        assert len(list(out.glob("*.png"))) == 3
        results.append((out / "found.json").read_text())
    assert results[0] == results[1] == results[2]
    drawn = images / "out" / "wide.png"
    status, message = fails(capsys, str(run), str(drawn), "--out", str(images / "out"))
    assert (status, "drawn by sssd.predict" in message) == (2, True)
    original = (images / "1.png").read_bytes()  # OUT is where the images themselves lie
    status, message = fails(capsys, str(run), str(images), "--out", str(images))
    assert (status, "1.png already exists" in message) == (2, True)
    assert (images / "1.png").read_bytes() == original


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (1, 1)])
def test_images_thinner_than_the_network_can_resize(
    size: tuple[int, int], run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "thin.png")
    assert main([str(run), str(tmp_path / "thin.png"), "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "thin.png").size == size


def test_a_float_image_is_read_with_its_range(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.linspace(0, 0.5, 64 * 64, dtype=np.float32).reshape(64, 64)).save(
        tmp_path / "float.tif"
    )
    out = tmp_path / "out"
    arguments = [str(run), str(tmp_path / "float.tif"), "--out", str(out)]
    assert main(arguments) == 1
    assert "--pixel-range" in capsys.readouterr().err
    assert main([*arguments, "--pixel-range", "0", "0.5", "--threshold", "1"]) == 0
    assert Image.open(out / "float.png").getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize("name", ["x" * 251, "猫" * 83])
def test_a_file_with_the_longest_name(name: str, run: Path, images: Path, tmp_path: Path) -> None:
    (images / "1.png").rename(images / f"{name}.png")
    assert main([str(run), str(images / f"{name}.png"), "--out", str(tmp_path / "out")]) == 0
    (picture,) = (tmp_path / "out").iterdir()
    assert picture.name.startswith(name[:60])


def test_wrong_use_is_status_two(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    labels = tmp_path / "labels.json"
    labels.write_text('{"images": [], "annotations": [], "categories": []}')
    cases = {
        "no images were named": [str(run), *out],
        "no images in this folder": [str(run), str(tmp_path / "empty"), *out],
        "no file matches": [str(run), str(tmp_path / "*.tif"), *out],
        "--threshold is 2": [str(run), str(images), *out, "--threshold", "2"],
        "--max-detections is 0": [str(run), str(images), *out, "--max-detections", "0"],
        "--pixel-range is 3 1": [str(run), str(images), *out, "--pixel-range", "3", "1"],
        "is an image": [str(run), str(images / "2.png"), "--json", str(images / "1.png")],
        "holds a data set": [str(run), str(images), "--json", str(labels)],
        "not the folder of a run": [str(images), str(images), *out],
    }
    for said, arguments in cases.items():
        status, message = fails(capsys, *arguments)
        assert status == 2, message
        assert said in message
    assert not (tmp_path / "out").exists()


def test_a_linked_folder_is_searched_and_its_own_json_written_again(
    run: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "more").symlink_to(images)
    found = tmp_path / "found.json"
    for place in (images, tmp_path / "linked"):
        assert main([str(run), str(place), "--json", str(found)]) == 0
        assert set(results_in(found)) == {"1.png", "wide.jpg"}


def test_a_folder_that_can_not_be_written_is_status_one(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status, message = fails(capsys, str(run), str(images), "--out", str(tmp_path / "file"))
    assert status == 1
    assert "cannot be written" in message


def test_the_help_says_what_is_named_in_which_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert "RUN IMAGE ..." in help_text
    assert "default: )" not in help_text


def test_the_damaged_frames_of_a_video_are_left_out_and_told(images: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    picture = Image.open(images / "1.png").convert("RGB").resize((64, 48))
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
        for turned in range(40):
            frame = av.VideoFrame.from_image(picture.rotate(9 * turned))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    whole = [time for time, _ in frames(clip)]
    damaged = bytearray(clip.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 400] = bytes(400)
    clip.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"clip.mp4 is damaged: \d+ packets"):
        left = [time for time, _ in frames(clip)]
    assert len(whole) == 40
    assert 30 < len(left) < 40
    assert {*left} < {*whole}
    assert left[-1] == whole[-1]


def test_a_video_keeps_its_times(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [0, 100, 150, 900, 1000, 1040, 1100, 1200, 1300, 2000]  # ms: of no constant rate
    clip, broken = tmp_path / "clip.mkv", tmp_path / "broken.mp4"
    picture = Image.open(images / "1.png").convert("RGB").resize((65, 49))  # of odd sides
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height = picture.size
        stream.pix_fmt = "bgr0"  # without loss
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    broken.write_bytes(b"no video")
    arguments = command(run, clip, tmp_path / "out")
    assert main([arguments[0], str(broken), *arguments[1:]]) == 1
    said = capsys.readouterr()
    assert "broken.mp4: the video cannot be read" in said.err
    document = json.loads((tmp_path / "out" / "found.json").read_text())
    seconds = [row["seconds"] for row in document["images"]]
    assert seconds == pytest.approx([time / 1000 for time in times])
    (found,) = load(run).predict(picture, threshold=0.3)
    count = len(document["annotations"])
    assert f"clip.mkv: {len(times)} frames: " in said.out
    assert 0 < count == len(times) * len(found)
    drawn = tmp_path / "out" / "clip.mp4"
    with av.open(str(drawn)) as container:
        shown = list(container.decode(video=0))
        assert container.duration == pytest.approx(2.03e6, rel=0.01)  # microseconds
    assert [frame.time for frame in shown] == pytest.approx(seconds)
    difference = shown[3].to_ndarray(format="rgb24").astype(int) - np.asarray(picture)[:48, :64]
    assert shown[3].width == 64
    assert abs(difference).max() > 20  # boxes
    assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(ValueError, match=r"drawn by sssd\.predict"):
        find_files([str(drawn)])


def test_a_video_needs_its_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    status, message = fails(capsys, str(run), str(tmp_path / "clip.mov"))
    assert (status, "pip install 'sssd[video]'" in message) == (2, True)
