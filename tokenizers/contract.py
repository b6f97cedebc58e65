"""The Tokenizer contract: record batch in, tokens out, and back from tokens alone.

A tokenizer is made of settings (`Config`) and, where it is fitted, an `Artefact`. `encode` must be row-independent:
a record's tokens depend on that record only, never on the batch, the neighbours, the threads or the processor.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from headrace.schemas.canonical import canonical_json, digest_of, sha256_hex
from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import Modality


class TokenizerConfig(BaseModel):
    """Base of tokenizer settings: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Encoded:
    """Tokens of a batch: row i is `values[offsets[i]:offsets[i+1]]`.

    values: uint16 or uint32, in [0, vocab_size); offsets: int64, rows + 1 of them, first 0.
    error: float32 per row in the tokenizer's `error_unit`, NaN where not measured.
    clip_fraction: float32 per row, the share of values outside the tokenizer's range.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    error: npt.NDArray[np.float32]
    clip_fraction: npt.NDArray[np.float32]

    @classmethod
    def of(cls, rows: Sequence[npt.NDArray[Any]], error: Sequence[float], clip: Sequence[float], dtype: Any) -> Encoded:
        """Join per-row token arrays."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(r) for r in rows], out=offsets[1:])
        values = np.concatenate(rows).astype(dtype, copy=False) if rows else np.empty(0, dtype)
        return cls(values, offsets, np.asarray(error, np.float32), np.asarray(clip, np.float32))


@dataclass(frozen=True)
class Artefact:
    """What a tokenizer is, as data: settings, arrays and model files. Never pickled.

    On disk it is a folder: `artefact.json` (kind, params, card, digests), `<name>.npy` per array, and the files.
    """

    kind: str
    params: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)  #: training digest, errors, code usage …; not in the fingerprint

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of kind, parameters, arrays and files: what decides the tokens."""
        arrays = {
            n: [a.dtype.str, list(a.shape), sha256_hex(np.ascontiguousarray(a).tobytes())]
            for n, a in self.arrays.items()
        }
        files = {n: sha256_hex(data) for n, data in self.files.items()}
        return digest_of({"kind": self.kind, "params": self.params, "arrays": arrays, "files": files})

    def to_files(self) -> dict[str, bytes]:
        """Every file of the folder by name."""
        out: dict[str, bytes] = {}
        for name, array in self.arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            out[f"{name}.npy"] = buffer.getvalue()
        out.update(self.files)
        out["artefact.json"] = canonical_json(
            {
                "format": 1,
                "kind": self.kind,
                "params": self.params,
                "arrays": sorted(self.arrays),
                "files": sorted(self.files),
                "card": self.card,
                "fingerprint": self.fingerprint,
            }
        )
        return out

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> Artefact:
        """Read a folder's files back. Raises: TokenizerError if the fingerprint does not match the bytes."""
        try:
            head = json.loads(files["artefact.json"])
            arrays = {n: np.load(io.BytesIO(files[f"{n}.npy"]), allow_pickle=False) for n in head["arrays"]}
            artefact = cls(head["kind"], head["params"], arrays, {n: files[n] for n in head["files"]}, head["card"])
        except (KeyError, ValueError) as exc:
            raise TokenizerError(f"not a tokenizer artefact: {exc}") from exc
        if artefact.fingerprint != head["fingerprint"]:
            raise TokenizerError(
                f"artefact {head['fingerprint'][:12]}… was changed: its bytes hash to {artefact.fingerprint[:12]}…"
            )
        return artefact

    def save(self, folder: str | Path) -> None:
        """Write the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, data in self.to_files().items():
            (Path(folder) / name).write_bytes(data)

    @classmethod
    def load(cls, folder: str | Path) -> Artefact:
        """Read a folder. Raises: TokenizerError."""
        paths = [p for p in Path(folder).iterdir() if p.is_file()] if Path(folder).is_dir() else []
        return cls.from_files({p.name: p.read_bytes() for p in paths})


@dataclass(frozen=True)
class FitBudget:
    """What a fit reads: the bottom `records` by record id of the bottom `splits` by split id, within `max_bytes`."""

    records: int = 20_000
    splits: int = 256
    max_bytes: int = 256 << 20


class Tokenizer(ABC):
    """Record batch → tokens → record batch. Registered under the entry point group `headrace.tokenizers`."""

    Config: ClassVar[type[TokenizerConfig]] = TokenizerConfig
    #: The modalities whose records it takes.
    modalities: ClassVar[tuple[Modality, ...]]
    #: True if `fit` must run before `encode`.
    fitted: ClassVar[bool] = False
    #: Unit of Encoded.error: "psnr_db", "nrmse", "snr_db", "none".
    error_unit: ClassVar[str] = "none"
    determinism: ClassVar[Literal["exact", "tolerant"]] = "exact"
    fit_budget: ClassVar[FitBudget] = FitBudget()

    def __init__(self, config: TokenizerConfig, artefact: Artefact | None = None) -> None:
        self.config: Any = config
        self._artefact = artefact

    @classmethod
    def fit(cls, config: Any, records: Sequence[pa.RecordBatch], seed: int) -> Artefact:
        """The artefact fitted to `records`: a pure function of its arguments. Raises: TokenizerError."""
        raise TokenizerError(f"{cls.__name__} is not fitted")

    @property
    @abstractmethod
    def artefact(self) -> Artefact:
        """What this tokenizer is; for unfitted ones made from the settings. Raises: NotFitted."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 that names exactly this mapping from records to tokens."""
        return self.artefact.fingerprint

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Token ids lie in [0, vocab_size). Fixed: markers (rows, gaps, shapes, scales) are among them."""

    @property
    def token_dtype(self) -> Literal["uint16", "uint32"]:
        """uint16 where the vocabulary fits, else uint32."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def engine(self) -> str:
        """What encodes: "reference", or a faster engine with its version.

        Never in the fingerprint: an engine is used only while it gives the reference's tokens.
        """
        return "reference"

    def retire_engine(self) -> None:  # noqa: B027  there is nothing to do where the reference is all there is
        """From now on the reference library encodes."""

    @abstractmethod
    def encode(self, records: pa.RecordBatch) -> Encoded:
        """Tokens of every row.

        Raises: SchemaMismatch, RecordError (then the batch is bisected to find the row); EngineMismatch for a document
        that was compared with the reference library and differs.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[npt.NDArray[Any]]) -> pa.RecordBatch:
        """A draft batch whose payload is rebuilt from tokens alone. Raises: TokenizerError for impossible tokens."""
