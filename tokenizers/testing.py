"""The conformance kit that every tokenizer here passes and third parties subclass.

    class TestMine(TokenizerKit):
        def settings(self): return {"type": "./mine.py:Mine"}
        def records(self): return a draft or record batch with a few different rows

pytest then checks what the contract promises: ids in range, tokens that depend on the row alone (batches of 1, 61 and
4,096, shuffled, two thread counts, two BLAS kernels), decoding from tokens alone in a fresh process's worth of state,
artefacts that survive the disk, and fits that do not depend on the order of records.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from headrace.schemas.errors import NotFitted, RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import MODALITIES, RecordBuilder, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer
from headrace.tokenizers.registry import Choice, choose, load, needs_fit

_CHILD = """
import sys
import pyarrow as pa
from pathlib import Path
from headrace.tokenizers.contract import Artefact
from headrace.tokenizers.registry import load
from headrace.tokenizers.testing import digest
folder, kind, records = sys.argv[1:4]
tokenizer = load(Artefact.load(folder), kind, Path("/"))
with pa.ipc.open_file(records) as source:
    print(digest(tokenizer.encode(source.get_batch(0))))
"""

#: Environments that must not matter: two thread counts, two BLAS kernels.
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem"},
    {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "OPENBLAS_CORETYPE": "Haswell"},
)


def digest(encoded: Encoded) -> str:
    """Hex sha256 of everything an Encoded says."""
    state = hashlib.sha256()
    for array in (encoded.values, encoded.offsets, encoded.error, encoded.clip_fraction):
        state.update(array.dtype.str.encode() + np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def row_tokens(encoded: Encoded) -> list[Array]:
    """Each row's tokens."""
    return [encoded.values[a:b] for a, b in itertools.pairwise(encoded.offsets.tolist())]


def _repeated(batch: pa.RecordBatch, order: Sequence[int]) -> pa.RecordBatch:
    return batch.take(pa.array(order, pa.int64()))


class TokenizerKit:
    """Subclass it in a test file; the name must begin with `Test`."""

    def settings(self) -> Mapping[str, Any]:
        """The tokenizer as a pipeline names it."""
        raise TypeError("a TokenizerKit needs `settings`")

    def records(self) -> pa.RecordBatch:
        """A few different rows to encode; small, because they are repeated up to 4,096 rows."""
        raise TypeError("a TokenizerKit needs `records`")

    def training(self) -> list[pa.RecordBatch]:
        """What a fitted tokenizer is fitted to; default: `records`."""
        return [self.records()]

    def base(self) -> Path | None:
        """The folder that relative paths in `settings` start from."""
        return None

    def check_decoded(self, given: pa.RecordBatch, decoded: pa.RecordBatch) -> None:
        """Compare payloads; the default asks for the same modality and number of rows."""
        assert modality_of(decoded) == modality_of(given)
        assert decoded.num_rows == given.num_rows

    @pytest.fixture
    def choice(self) -> Choice:
        return choose(self.settings(), self.base())

    @pytest.fixture
    def artefact(self, choice: Choice) -> Artefact:
        """Made once per class: a fit is the slow part."""
        cls = type(self)
        if "_artefact" not in cls.__dict__:
            cls._artefact = self._make(choice)
        return cls._artefact

    _artefact: ClassVar[Artefact]

    def _make(self, choice: Choice) -> Artefact:
        assert choice.cls is not None
        if needs_fit(choice):
            return choice.cls.fit(choice.config, self.training(), 0)
        return choice.create().artefact

    @pytest.fixture
    def tokenizer(self, choice: Choice, artefact: Artefact) -> Tokenizer:
        return choice.create(artefact)

    def test_ids_lie_in_the_vocabulary(self, tokenizer: Tokenizer) -> None:
        batch = self.records()
        encoded = tokenizer.encode(batch)
        assert encoded.values.dtype == np.dtype(tokenizer.token_dtype)
        assert not len(encoded.values) or int(encoded.values.max()) < tokenizer.vocab_size
        assert encoded.offsets.dtype == np.int64 and encoded.offsets[0] == 0
        assert len(encoded.offsets) == batch.num_rows + 1 and encoded.offsets[-1] == len(encoded.values)
        assert len(encoded.error) == len(encoded.clip_fraction) == batch.num_rows
        assert ((encoded.clip_fraction >= 0) & (encoded.clip_fraction <= 1)).all()

    def test_tokens_depend_on_the_row_alone(self, tokenizer: Tokenizer) -> None:
        if tokenizer.determinism != "exact":
            pytest.skip("this tokenizer declares `determinism: tolerant`")
        batch = self.records()
        alone = [tokenizer.encode(batch.slice(i, 1)) for i in range(batch.num_rows)]
        for size in (1, 61, 4096):
            order = [(i * 7 + i // 3) % batch.num_rows for i in range(size)]
            together = tokenizer.encode(_repeated(batch, order))
            for place, tokens in enumerate(row_tokens(together)):
                expected = alone[order[place]]
                assert np.array_equal(tokens, expected.values), f"row {order[place]} in a batch of {size}"
                assert np.array_equal(together.error[place : place + 1], expected.error, equal_nan=True)
                assert together.clip_fraction[place] == expected.clip_fraction[0]

    def test_tokens_do_not_depend_on_threads_or_processor(
        self, tokenizer: Tokenizer, artefact: Artefact, tmp_path: Path
    ) -> None:
        if tokenizer.determinism != "exact":
            pytest.skip("this tokenizer declares `determinism: tolerant`")
        batch = self.records()
        artefact.save(tmp_path / "artefact")
        with pa.ipc.new_file(tmp_path / "records.arrow", batch.schema) as sink:
            sink.write_batch(batch)
        expected = digest(tokenizer.encode(batch))
        arguments = [str(tmp_path / "artefact"), _importable(type(tokenizer)), str(tmp_path / "records.arrow")]
        path = os.pathsep.join(p for p in sys.path if p)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD, *arguments],
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for environment in ENVIRONMENTS
        ]
        for child, environment in zip(children, ENVIRONMENTS):
            out, err = child.communicate(timeout=120)
            assert child.returncode == 0, err
            assert out.strip() == expected, f"other tokens under {environment}"

    def test_it_decodes_from_tokens_and_artefact_alone(self, tokenizer: Tokenizer, artefact: Artefact) -> None:
        batch = self.records()
        tokens = row_tokens(tokenizer.encode(batch))
        fresh = load(Artefact.from_files(artefact.to_files()), _importable(type(tokenizer)), Path("/"))
        decoded = fresh.decode([np.array(t) for t in tokens])
        self.check_decoded(batch, decoded)
        again = tokenizer.decode(tokens)
        assert decoded.serialize().equals(again.serialize())  # as bytes: a missing value, NaN, equals itself

    def test_the_artefact_survives_the_disk(self, tokenizer: Tokenizer, artefact: Artefact, tmp_path: Path) -> None:
        artefact.save(tmp_path / "artefact")
        back = Artefact.load(tmp_path / "artefact")
        assert back.fingerprint == artefact.fingerprint == tokenizer.fingerprint
        fresh = load(back, _importable(type(tokenizer)), Path("/"))
        assert fresh.fingerprint == artefact.fingerprint and fresh.vocab_size == tokenizer.vocab_size
        batch = self.records()
        assert digest(fresh.encode(batch)) == digest(tokenizer.encode(batch))

    def test_the_fingerprint_is_stable(self, choice: Choice, artefact: Artefact) -> None:
        assert self._make(choice).fingerprint == artefact.fingerprint

    def test_a_fit_does_not_depend_on_the_order_of_records(self, choice: Choice, artefact: Artefact) -> None:
        if not needs_fit(choice):
            pytest.skip("this tokenizer is not fitted")
        assert choice.cls is not None
        rows = [batch.slice(i, 1) for batch in self.training() for i in range(batch.num_rows)]
        assert choice.cls.fit(choice.config, rows[::-1], 0).fingerprint == artefact.fingerprint

    def test_it_refuses_to_encode_before_its_fit(self, choice: Choice) -> None:
        if not needs_fit(choice):
            pytest.skip("this tokenizer is not fitted")
        with pytest.raises(NotFitted):
            choice.create().encode(self.records())

    def test_it_refuses_records_of_another_modality(self, tokenizer: Tokenizer) -> None:
        for modality in MODALITIES:
            if modality not in type(tokenizer).modalities:
                with pytest.raises(SchemaMismatch):
                    tokenizer.encode(RecordBuilder(modality).finish())

    def test_no_rows_give_no_tokens(self, tokenizer: Tokenizer) -> None:
        encoded = tokenizer.encode(self.records().slice(0, 0))
        assert encoded.offsets.tolist() == [0] and not len(encoded.values)
        assert tokenizer.decode([]).num_rows == 0

    def test_impossible_tokens_are_an_error_and_not_a_crash(self, tokenizer: Tokenizer) -> None:
        tokens = row_tokens(tokenizer.encode(self.records()))[0]
        top = tokenizer.vocab_size
        for broken in (tokens[: len(tokens) // 2], tokens[::-1], np.array([top - 1] * 9), np.array([top + 5] * 3)):
            try:
                tokenizer.decode([broken.astype(np.uint32)])
            except TokenizerError:
                continue  # refused; what it could decode is as good
            except RecordError as exc:
                raise AssertionError("decoding raises TokenizerError, RecordError is for encoding") from exc


def _importable(cls: type[Tokenizer]) -> str:
    """How another process finds the class: by module for installed code, else by its file."""
    if cls.__module__.startswith("headrace."):
        return f"{cls.__module__}:{cls.__name__}"
    return f"{Path(inspect.getfile(cls)).resolve()}:{cls.__name__}"
