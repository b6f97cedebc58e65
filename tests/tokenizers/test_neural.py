"""Neural codecs from files and the small trained one: constant shapes, an allow-list, and plain weights."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.schemas.errors import ConfigError, SchemaMismatch, TokenizerError
from headrace.schemas.record import payload_views
from headrace.tokenizers.codec import TRUSTED
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.neural_tiles import Tiling
from headrace.tokenizers.registry import choose, load, needs_fit
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import images, picture, texts

PICTURES = (picture(64, 48, 1), picture(37, 21, 2), picture(1, 1, 3))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mean_gray(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the test codec's codes are: the mean gray of each 8×8 square, edges repeated."""
    height, width = (-(-n // 8) * 8 for n in pixels.shape[:2])
    pads = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
    gray = np.pad(pixels, pads, mode="edge").mean(axis=2)
    return np.asarray(gray.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)))


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec whose code is the mean gray of 8×8 pixels in 256 steps, as TorchScript files."""
    torch: Any = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")

    class Encoder(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            gray = torch.nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), 8)[:, 0]
            return gray, torch.clamp(torch.round((gray + 1.0) * 127.5), 0, 255).to(torch.int32)

    class Decoder(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, codes: Any) -> Any:
            gray = codes.to(torch.float32)[:, None] / 127.5 - 1.0
            wide = torch.repeat_interleave(torch.repeat_interleave(gray, 8, 2), 8, 3)
            return torch.cat([wide, wide, wide], 1)

    folder = tmp_path_factory.mktemp("codec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have another format
        torch.jit.trace(Encoder(), torch.zeros(1, 3, 32, 32)).save(str(folder / "encoder.jit"))
        torch.jit.trace(Decoder(), torch.zeros(1, 4, 4, dtype=torch.int64)).save(str(folder / "decoder.jit"))
    return folder


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same codec as ONNX files."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")
    onnx: Any = pytest.importorskip("onnx", reason="onnx, which writes the test's model, is not installed")
    helper, kinds = onnx.helper, onnx.TensorProto
    folder = tmp_path_factory.mktemp("onnx")
    pooled = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["mean"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Add", ["small", "one"], ["up"]),
        helper.make_node("Mul", ["up", "half"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["round"]),
        helper.make_node("Clip", ["round", "low", "high"], ["clip"]),
        helper.make_node("Cast", ["clip"], ["codes4"], to=kinds.INT32),
        helper.make_node("Reshape", ["codes4", "shape"], ["codes"]),
    ]
    numbers = {"one": 1.0, "half": 127.5, "low": 0.0, "high": 255.0}
    constants = [helper.make_tensor(k, kinds.FLOAT, [], [v]) for k, v in numbers.items()]
    constants.append(helper.make_tensor("shape", kinds.INT64, [3], [1, 4, 4]))
    graph = helper.make_graph(
        pooled,
        "encoder",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("codes", kinds.INT32, [1, 4, 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "encoder.onnx"))
    return folder


def codec(folder: Path, **options: Any) -> Tokenizer:
    name = next(p.name for p in sorted(folder.iterdir()) if p.stem == "encoder")
    settings = {"type": "codec", "model": name, "codes": 256, "tile": 32, "measure": 1.0, **options}
    settings.setdefault("sha256", [digest(p) for p in folder.iterdir()])
    choice = choose(settings, folder)
    assert not needs_fit(choice)
    return choice.create()


def check_codes(tokenizer: Tokenizer) -> Any:
    encoded = tokenizer.encode(images(*PICTURES))
    for pixels, tokens in zip(PICTURES, row_tokens(encoded), strict=True):
        grid = mean_gray(pixels)
        codes = tokens[-grid.size :].reshape(grid.shape)
        assert np.abs(codes - grid).max() <= 0.51, "codes are those of the picture, tile borders or not"
    return encoded


def test_a_torchscript_codec_gives_its_codes_and_pictures_back(torchscript: Path) -> None:
    tokenizer = codec(torchscript, decoder="decoder.jit")
    encoded = check_codes(tokenizer)
    decoded = tokenizer.decode(row_tokens(encoded))
    for pixels, back, error in zip(PICTURES, payload_views(decoded), encoded.error, strict=True):
        assert back.shape == pixels.shape
        height, width = pixels.shape[:2]
        flat = np.kron(mean_gray(pixels), np.ones((8, 8)))[:height, :width]
        assert np.abs(back[..., 0] - flat).max() <= 1
        true = 10 * np.log10(255**2 / np.mean((pixels.astype(float) - back) ** 2))
        assert error == pytest.approx(true, abs=1e-3)
    assert tokenizer.determinism == "tolerant" and tokenizer.vocab_size > 256


def test_an_onnx_codec_gives_the_same_codes(onnx_files: Path) -> None:
    tokenizer = codec(onnx_files)
    encoded = check_codes(tokenizer)
    assert np.isnan(encoded.error).all(), "without a decoder there is nothing to measure"
    with pytest.raises(TokenizerError, match="without a decoder"):
        tokenizer.decode(row_tokens(encoded))


def test_a_file_that_is_not_on_the_list_is_not_run(torchscript: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUSTED, raising=False)
    with pytest.raises(ConfigError, match=digest(torchscript / "encoder.jit")):
        codec(torchscript, sha256=[])
    with pytest.raises(ConfigError, match=digest(torchscript / "decoder.jit")):
        codec(torchscript, decoder="decoder.jit", sha256=[digest(torchscript / "encoder.jit")])
    with pytest.raises(ConfigError, match="64 hex digits"):
        codec(torchscript, sha256=["abc"])


def test_a_datasets_codec_runs_only_where_its_reader_trusts_it(
    torchscript: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUSTED, raising=False)
    made = codec(torchscript, decoder="decoder.jit")
    artefact = Artefact.from_files(made.artefact.to_files())
    with pytest.raises(ConfigError, match=TRUSTED):
        load(artefact)
    monkeypatch.setenv(TRUSTED, ", ".join(digest(p).upper() for p in torchscript.iterdir()))
    fresh = load(artefact)
    assert fresh.fingerprint == made.fingerprint
    assert np.array_equal(fresh.encode(images(*PICTURES)).values, made.encode(images(*PICTURES)).values)


def test_wrong_codec_settings_are_named(torchscript: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoder"):
        choose({"type": "codec"}).create()
    with pytest.raises(ConfigError, match="multiples"):
        codec(torchscript, tile=33)
    for name in ("x.pkl", "x.jit"):
        (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
        with pytest.raises(ConfigError, match=r"must end in|not a TorchScript"):
            choose({"type": "codec", "model": name, "sha256": [digest(tmp_path / name)]}, tmp_path).create()
    tokenizer = codec(torchscript)
    with pytest.raises(SchemaMismatch, match="RGB"):
        tokenizer.encode(images(np.zeros((8, 8, 1), np.uint8)))
    with pytest.raises(SchemaMismatch, match="image"):
        tokenizer.encode(texts("x"))
    with pytest.raises(TokenizerError, match=r"lie in \[0, 100\)"):
        codec(torchscript, codes=100).encode(images(np.full((8, 8, 3), 200, np.uint8)))


def near(window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Codes that depend on the squares around each square."""
    grid = mean_gray(window)
    padded = np.pad(grid, 1, mode="edge")
    rows, cols = grid.shape
    shifts = [(a, b) for a in range(3) for b in range(3)]
    return np.asarray(np.rint(sum(padded[a : a + rows, b : b + cols] for a, b in shifts)), np.int64)


@pytest.mark.parametrize("halo", [0, 8, 16])
def test_tiles_meet_without_a_seam(halo: int) -> None:
    """A network that looks at its neighbours gives the same codes whatever tile they fall into."""
    tiling = Tiling(16, halo, 8)

    def network(window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        assert window.shape == (16 + 2 * halo, 16 + 2 * halo, 3)
        return near(window)

    pixels = picture(40, 56, 5)
    whole = Tiling(64, 64, 8).encode(pixels, near)
    tiled = tiling.encode(pixels, network)
    assert tiled.shape == (5, 7)
    assert np.array_equal(tiled, whole) == (halo > 0)


def test_the_convolutional_tokenizer_learns_repeats_and_survives_the_disk() -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    batch = images(*(picture(70, 80, s) for s in range(10)))
    short = choose({"type": "conv-fsq", "width": 8, "steps": 3})
    assert needs_fit(short) and short.cls is not None
    orders = ([batch], [batch.slice(5), batch.slice(0, 5)])
    assert len({short.cls.fit(short.config, order, 0).fingerprint for order in orders}) == 1
    choice = choose({"type": "conv-fsq", "width": 16, "steps": 30, "measure": 1.0})
    artefact = short.cls.fit(choice.config, [batch], 0)
    tokenizer = load(Artefact.from_files(artefact.to_files()))
    encoded = tokenizer.encode(batch)
    decoded = tokenizer.decode(row_tokens(encoded))
    flat = np.mean([10 * np.log10(255**2 / np.mean(p.std(axis=(0, 1)) ** 2)) for p in payload_views(batch)])
    assert encoded.error.mean() > flat, "better than one colour for each picture, after a second of training"
    for pixels, back, error in zip(payload_views(batch), payload_views(decoded), encoded.error, strict=True):
        assert back.shape == pixels.shape
        true = 10 * np.log10(255**2 / np.mean((pixels.astype(float) - back) ** 2))
        assert error == pytest.approx(true, abs=1e-3)
    assert encoded.offsets[1] == 9 * 10 + 4 and int(encoded.values.max()) < tokenizer.vocab_size
    assert artefact.card["held_out_result"]["error"] > 5
    broken = Artefact(artefact.kind, artefact.params, {k: v for k, v in artefact.arrays.items() if "0.weight" not in k})
    with pytest.raises(TokenizerError, match="do not fit"):
        load(broken)
