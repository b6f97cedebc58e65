"""`codec`: pictures by a neural codec from the user's own files, TorchScript or ONNX.

    encoder  float32 (1, channels, side, side) → a tuple whose first integer tensor is the codes (1, rows, cols)
    decoder  integer codes (1, rows, cols) → float32 (1, channels, side, side)

TorchScript runs code that is in the file, so a file is loaded only if its sha256 is on a list that the user wrote: the
setting `sha256`, or, for a dataset's artefacts, the environment variable HEADRACE_CODECS (hex digests, commas between).
Nothing is unpickled. Networks may differ in the last bit between processors: determinism is `tolerant`.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import ConfigError, MissingExtra, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of, payload_views
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig
from headrace.tokenizers.model_file import ModelFile, read_model
from headrace.tokenizers.neural_tiles import PictureCodes, Tiling

KIND = "codec"
TRUSTED = "HEADRACE_CODECS"


class CodecConfig(TokenizerConfig):
    """Settings of `codec`."""

    model: ModelFile | None = Field(None, description="the encoder: a TorchScript (.jit, .pt) or ONNX (.onnx) file")
    decoder: ModelFile | None = Field(None, description="the decoder, of the same kind; without it nothing decodes")
    sha256: tuple[str, ...] = Field((), description="hex digests of the files that may be run")
    codes: int = Field(64_000, ge=2, le=1 << 22, description="codes lie in [0, codes)")
    stride: int = Field(8, ge=1, le=64, description="pixels per code, on a side")
    tile: int = Field(256, ge=8, le=4096, description="pixels per tile, on a side; a multiple of stride")
    halo: int = Field(0, ge=0, le=512, description="pixels of surroundings given with a tile; a multiple of stride")
    low: float = Field(-1.0, description="what the network calls black")
    high: float = Field(1.0, description="what the network calls white")
    measure: float = Field(0.01, ge=0, le=1, description="share of pictures, by hash, whose error is measured")

    @field_validator("sha256")
    @classmethod
    def _digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for digest in value:
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise ValueError(f"{digest!r} is not a sha256 of 64 hex digits")
        return tuple(d.lower() for d in value)

    @model_validator(mode="after")
    def _multiples(self) -> CodecConfig:
        if self.tile % self.stride or self.halo % self.stride:
            raise ValueError(f"tile={self.tile} and halo={self.halo} must be multiples of stride={self.stride}")
        return self


class Codec(Tokenizer):
    """See the module."""

    Config = CodecConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    error_unit = "psnr_db"
    determinism: ClassVar[Literal["exact", "tolerant"]] = "tolerant"

    def __init__(self, config: CodecConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        self._made = artefact or self._from_files(config)
        check_artefact(self._made, KIND, ("tile", "halo", "stride", "codes", "measure", "low", "high"))
        if "encoder" not in {name.split(".")[0] for name in self._made.files}:
            raise TokenizerError(f"this artefact of kind `{KIND}` lacks its encoder")
        allowed = {*config.sha256, *os.environ.get(TRUSTED, "").lower().replace(" ", "").split(",")}
        for name, data in self._made.files.items():
            if sha256_hex(data) not in allowed:
                message = f"`{name}` has sha256 {sha256_hex(data)}, which is not on the list of files that may be run"
                raise ConfigError(f"{message}: add it to `sha256`, or to {TRUSTED}", field="sha256")
        p = self._made.params
        tiling = Tiling(int(p["tile"]), int(p["halo"]), int(p["stride"]))
        self._codes = PictureCodes(tiling, int(p["codes"]), float(p["measure"]))
        self._low, self._span = float(p["low"]), float(p["high"]) - float(p["low"])
        runners = {name.split(".")[0]: _runner(name, data) for name, data in sorted(self._made.files.items())}
        self._run_encoder, self._run_decoder = runners["encoder"], runners.get("decoder")

    def _from_files(self, config: CodecConfig) -> Artefact:
        if config.model is None:
            raise ConfigError(f"`{KIND}` needs the path of an encoder", field="model")
        files = {f"encoder{_suffix(config.model, 'model')}": read_model(config.model)}
        if config.decoder is not None:
            files[f"decoder{_suffix(config.decoder, 'decoder')}"] = read_model(config.decoder, "decoder")
        return Artefact(KIND, config.model_dump(mode="json", exclude={"model", "decoder", "sha256"}), files=files)

    @property
    def artefact(self) -> Artefact:
        return self._made

    @property
    def vocab_size(self) -> int:
        return self._codes.size + self._codes.ids.size

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "image":
            raise SchemaMismatch(f"`{KIND}` takes image records, not {modality_of(records)}")
        rows, errors = [], []
        decode = self._window_of_codes if self._run_decoder else None
        for pixels in payload_views(records):
            if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] != 3:
                found = f"{pixels.dtype} of shape {list(pixels.shape)}"
                raise SchemaMismatch(f"`{KIND}` takes uint8 RGB pictures, this record is {found}")
            tokens, error = self._codes.body(pixels, self._codes_of_window, decode)
            rows.append(tokens)
            errors.append(error)
        return Encoded.of(rows, errors, [0.0] * len(rows), np.dtype(self.token_dtype))

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("image")
        for body in tokens:
            if self._run_decoder is None:
                raise TokenizerError("this codec came without a decoder, so its tokens cannot be decoded")
            builder.add(locator="{}", pixels=self._codes.picture(np.asarray(body), self._window_of_codes), mode="RGB")
        return builder.finish()

    def _codes_of_window(self, window: Array) -> Array:
        x = np.moveaxis(window, -1, 0)[None].astype(np.float32) * np.float32(self._span / 255) + np.float32(self._low)
        outputs = self._run_encoder(np.ascontiguousarray(x))
        codes = next((o for o in outputs if o.dtype.kind in "iu"), None)
        if codes is None:
            kinds = ", ".join(str(o.dtype) for o in outputs)
            raise TokenizerError(f"the encoder gives {kinds}; an integer tensor of codes is expected")
        return np.asarray(codes.reshape(codes.shape[-2:]), np.int64)

    def _window_of_codes(self, codes: Array) -> Array:
        assert self._run_decoder is not None
        x = self._run_decoder(np.ascontiguousarray(codes[None]))[0]
        pixels = np.rint((x.reshape(x.shape[-3:]).astype(np.float64) - self._low) * (255 / self._span))
        return np.moveaxis(np.clip(pixels, 0, 255).astype(np.uint8), 0, -1)


def _suffix(path: Any, field: str) -> str:
    suffix = str(path.suffix).lower()
    if suffix not in (".onnx", ".jit", ".pt"):
        raise ConfigError(f"`{path.name}` must end in .onnx, .jit or .pt (TorchScript)", field=field, value=str(path))
    return suffix


def _runner(name: str, data: bytes) -> Callable[[Array], list[Array]]:
    """The network of a file as a function from one array to its outputs, on the processor."""
    return _onnx(name, data) if name.endswith(".onnx") else _torchscript(name, data)


def _torchscript(name: str, data: bytes) -> Callable[[Array], list[Array]]:
    try:
        import torch
    except ImportError as exc:
        raise MissingExtra("torch", "torch", need=f"the TorchScript file `{name}`") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers another format; users have this one
            module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(f"`{name}` is not a TorchScript file: {exc}", field="model") from exc

    def run(x: Array) -> list[Array]:
        with torch.inference_mode():
            out = module(torch.from_numpy(x))
        return [t.numpy() for t in (out if isinstance(out, (tuple, list)) else [out])]

    return run


def _onnx(name: str, data: bytes) -> Callable[[Array], list[Array]]:
    try:
        import onnxruntime
    except ImportError as exc:
        raise MissingExtra("onnxruntime", "onnx", need=f"the ONNX file `{name}`") from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # the library's own errors share no other base
        raise ConfigError(f"onnxruntime refuses `{name}`: {exc}", field="model") from exc
    given = session.get_inputs()[0]
    kind = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}.get(given.type, np.float32)
    return lambda x: list(session.run(None, {given.name: x.astype(kind)}))
