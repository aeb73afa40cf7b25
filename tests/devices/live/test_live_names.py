"""Which device a name means."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.devices import (
    CameraInfo,
    DeviceNotFound,
    DeviceStalled,
    DeviceUnavailable,
    MicrophoneInfo,
    MissingExtra,
    MissingLibrary,
    SourceError,
    find_camera,
    find_device,
    list_cameras,
    open_source,
)
from edgeprune.devices import _camera_names as camera_names
from edgeprune.devices import _find as find
from edgeprune.devices import _v4l2 as v4l2
from edgeprune.devices._device_names import choose
from edgeprune.devices._portaudio import _channel_counts, _pick

NAMES = ["USB Audio: - (hw:1,0)", "USB Audio Pro: - (hw:2,0)", "pulse", "Pulse Monitor", "default"]


@pytest.mark.parametrize(
    ("wanted", "position"),
    [
        ("pulse", 2),  # the exact name before the part of another
        ("PULSE", 2),
        ("monitor", 3),
        ("USB Audio: - (hw:1,0)", 0),
        ("USB Audio: - (hw:3,0)", 0),  # renumbered after a reboot
        ("usb audio", 0),
        ("pro", 1),
    ],
)
def test_the_best_name_is_chosen(wanted, position):
    assert choose("microphone", wanted, NAMES) == position


def test_a_part_of_several_names_is_refused_and_they_are_named():
    with pytest.raises(DeviceNotFound, match="more than one microphone") as caught:
        choose("microphone", "aud", NAMES)
    assert caught.value.known == tuple(NAMES[:2])
    with pytest.raises(DeviceNotFound, match="Did you mean 'default'"):
        choose("microphone", "defualt", NAMES)
    with pytest.raises(DeviceNotFound, match="no microphone at all"):
        choose("microphone", "x", [])
    with pytest.raises(DeviceNotFound):
        choose("microphone", "", NAMES)


def test_a_device_that_is_offered_twice_is_the_first_of_the_two():
    assert choose("microphone", "mic", ["Mic", "Mic"]) == 0


@given(st.lists(st.text(max_size=12), max_size=5), st.text(max_size=12))
def test_any_name_is_found_or_refused(names, wanted):
    try:
        position = choose("camera", wanted, names)
    except DeviceNotFound as error:
        assert wanted not in names or not wanted
        assert "Nothing was opened" in str(error)
    else:
        assert wanted == names[position] or wanted not in names


@pytest.mark.parametrize(
    "error",
    [
        DeviceNotFound("camera", None, ["a"]),
        DeviceNotFound("camera", "b", ["a", "c"], True),
        MissingLibrary("Using x", "y", "apt install y"),
        DeviceStalled("still"),
    ],
)
def test_errors_cross_process_boundaries(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_the_tree_of_device_errors():
    assert issubclass(DeviceNotFound, DeviceUnavailable)
    assert issubclass(DeviceStalled, DeviceUnavailable)
    assert DeviceNotFound.exit_code == DeviceStalled.exit_code == 4
    assert MissingLibrary.exit_code == 1


def device(name: str, api: str, default: bool = False, host_default: bool = False) -> dict:
    return {"name": name, "host_api": api, "default": default, "host_default": host_default}


def test_on_windows_the_better_way_to_a_microphone_is_taken():
    offered = [device("Mic", "MME"), device("Mic", "Windows WASAPI"), device("Mic", "Windows WDM")]
    assert _pick("Mic", offered)["host_api"] == "Windows WASAPI"


def test_the_default_microphone():
    offered = [device("a", "ALSA"), device("b", "ALSA", default=True)]
    assert _pick(None, offered)["name"] == "b"
    assert _pick(None, [device("a", "OSS"), device("b", "ALSA", host_default=True)])["name"] == "b"
    with pytest.raises(DeviceNotFound, match="no default microphone; name one of these: 'a'"):
        _pick(None, [device("a", "ALSA")])


def test_how_many_channels_are_tried():
    assert _channel_counts(None, 32) == [2, 1, 32]
    assert _channel_counts(None, 1) == [1]
    assert _channel_counts(6, 32) == [6]


def test_the_kernel_s_cameras_are_listed_by_number(tmp_path):
    for number, name in [(10, "Late Cam"), (2, "Web Cam")]:
        node = tmp_path / "sys" / f"video{number}"
        node.mkdir(parents=True)
        (node / "name").write_text(name + "\n")
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "video2").touch()  # no driver answers: no camera
    assert v4l2.list_v4l2(tmp_path / "sys", dev) == []
    assert v4l2.list_v4l2(tmp_path / "nowhere", dev) == []


def test_only_nodes_that_capture_are_cameras(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    for number in range(3):
        node = tmp_path / f"video{number}"
        node.mkdir()
        (node / "name").write_text("Web Cam")
        (node.parent / f"dev-video{number}").touch()
    dev = tmp_path / "dev"
    dev.mkdir()
    for number in range(3):
        (dev / f"video{number}").write_text(str(number))

    def ioctl(handle, request, buffer):
        import os

        number = int(os.pread(handle, 1, 0))
        caps = [0x8000_0001, 0x8000_0001, 0x0000_1000][number]
        of_this_node = [0x1, 0x0080_0000, 0][number]  # picture, metadata, an old driver
        return v4l2._QUERYCAP.pack(b"uvc", b"Web Cam", b"usb", 1, caps, of_this_node)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    paths = [path for _, path in v4l2.list_v4l2(tmp_path, dev)]
    assert paths == [str(dev / "video0"), str(dev / "video2")]


@pytest.fixture
def two_cameras(monkeypatch):
    monkeypatch.setattr(camera_names, "list_picameras", lambda: ["imx708"])
    monkeypatch.setattr(
        camera_names,
        "_of_the_system",
        lambda: [CameraInfo("C270", "v4l2", f"/dev/video{n}") for n in (0, 2)],
    )


def test_cameras_of_one_name_get_their_address_added(two_cameras):
    assert [info.name for info in list_cameras()] == [
        "imx708",
        "C270 (/dev/video0)",
        "C270 (/dev/video2)",
    ]
    assert find_camera("C270 (/dev/video2)").address == "/dev/video2"
    with pytest.raises(DeviceNotFound, match="more than one camera"):
        find_camera("C270")
    assert find_camera(None).kind == "picamera2"


@pytest.mark.parametrize(
    ("wanted", "kind", "name"),
    [
        ("http://10.0.0.7/video", "network", "http://10.0.0.7/video"),
        ("rtsp://me:pass@cam:554/s1?token=7", "network", "rtsp://cam:554/s1"),
        ("/dev/video4", "v4l2", "/dev/video4"),
        ("picamera2:1", "picamera2", "picamera2:1"),
    ],
)
def test_addresses_of_cameras(wanted, kind, name):
    info = find_camera(wanted)
    assert (info.kind, info.name, info.address) == (kind, name, wanted)


def test_no_camera_at_all(monkeypatch):
    monkeypatch.setattr(camera_names, "list_cameras", tuple)
    with pytest.raises(DeviceNotFound, match="no camera at all"):
        find_camera(None)


def test_a_name_among_all_devices(two_cameras, monkeypatch):
    mic = MicrophoneInfo("C270 Mic", "ALSA", 1, 48_000, True)
    other = MicrophoneInfo("imx708", "ALSA", 1, 48_000, False)
    monkeypatch.setattr(find, "list_microphones", lambda: (mic, other))
    assert find_device("C270 Mic") is mic
    assert find_device("video2").address == "/dev/video2"
    assert find_device("http://h/").kind == "network"
    with pytest.raises(DeviceNotFound, match=r"microphone imx708.*camera imx708"):
        find_device("imx708")
    assert find_device("imx708", "microphone") is other
    with pytest.raises(DeviceNotFound, match="no microphone or camera 'xyz'"):
        find_device("xyz")


def test_what_could_not_be_looked_for_is_said_instead_of_not_found(two_cameras, monkeypatch):
    def missing():
        raise MissingExtra("Using a microphone", "sounddevice")

    monkeypatch.setattr(find, "list_microphones", missing)
    assert find_device("imx708").kind == "picamera2"
    with pytest.raises(MissingExtra):
        find_device("xyz")


def test_what_names_no_source(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for text in ("", "micro", str(tmp_path / "notes.txt"), str(tmp_path / "gone.wav")):
        with pytest.raises(SourceError, match="names no source"):
            open_source(text)
