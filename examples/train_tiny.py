"""A small GPT on every modality of a dataset, stopped half way and resumed: the losses are equal to the last bit.

    python examples/train_tiny.py                    # on the dataset of `make demo`, or on a harbour that it builds
    python examples/train_tiny.py --data DATASET --steps 400 --out tiny-out

1. A run to the end writes a checkpoint half way: model, optimizer, random state, and the loader's `state_dict()`.
2. A fresh process goes on from the checkpoint (`--resume`). On the CPU its losses are those of the first run, exactly.
3. losses.png, a table, and the question where the samples of the worst sequence came from.

Sequences are packed from documents of one modality and mixed by weight; a token sees its own document only, and what
stands before it. Needs torch, and matplotlib for the plot: pip install 'headrace[torch,plot]'.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import headrace

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA needs to be deterministic
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a machine that does other things too, spinning only hurts
try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError:
    raise SystemExit("train_tiny.py needs PyTorch: pip install 'headrace[torch]'") from None

HARBOUR = Path(__file__).resolve().parent / "harbour"
LENGTH, BATCH, WIDTH, LAYERS, HEADS = 192, 8, 128, 4, 4
KEPT = 4096  # the most frequent ids get a row of the embedding, the others share UNK's
UNK = 4
#: Shares of the sequences, whatever the sizes of the streams.
WEIGHTS = {"text": 4, "audio": 2, "sensor": 2, "raster": 1, "image": 1, "video": 1}


class Block(nn.Module):
    """Attention within the document, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.05))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.before(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class TinyGPT(nn.Module):
    """`kept` are the unified ids it knows, ascending; `vocabulary` is the size of the id space they are from."""

    def __init__(self, kept: Tensor, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("row", torch.full((vocabulary,), int(torch.searchsorted(kept, UNK))), persistent=False)
        self.row[kept] = torch.arange(len(kept))
        self.token, self.place = nn.Embedding(len(kept), WIDTH), nn.Embedding(LENGTH, WIDTH)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, place: Tensor, mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of every position, 0 where there is nothing to predict; and the targets as rows of the embedding."""
        wanted = torch.where(targets < 0, targets, self.row[targets.clamp(min=0)])
        x = self.token(self.row[tokens]) + self.place(place)
        for block in self.blocks:
            x = block(x, mask)
        scores = self.norm(x) @ self.token.weight.T
        return F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted), wanted


def sources(dataset: str, version: int) -> list[headrace.Source]:
    """One source for each modality, of all its streams that have samples."""
    held: dict[str, list[str]] = {}
    for name, stream in headrace.open(dataset, version).streams().items():
        if stream.rows and stream.settings.tokens is not None:
            held.setdefault(stream.settings.modality, []).append(name)
    return [headrace.Source(dataset, held[m], weight=WEIGHTS[m], version=version) for m in WEIGHTS if m in held]


def most_frequent(dataset: str, version: int) -> Tensor:
    """The `KEPT` most frequent unified ids, and UNK: one pass over all tokens."""
    source = headrace.Source(dataset, version=version)
    data = headrace.ShardDataset(source, ids="unified", length=4096, shuffle=False, outputs=["tokens"])
    counts = np.zeros(data.vocabulary.size, np.int64)
    for batch in data:
        counts += np.bincount(batch["tokens"].ravel(), minlength=len(counts))
    counts[UNK] += 1
    frequent = np.argsort(-counts, kind="stable")[:KEPT]
    return torch.from_numpy(np.union1d(frequent[counts[frequent] > 0], [UNK]))


def tensors(batch: dict[str, Any], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, places, attention mask, targets. A token sees itself and what stands before it in its document."""
    segment = np.repeat(np.arange(len(batch["samples"])), np.diff(batch["cu_seqlens"])).reshape(-1, LENGTH)
    mask = (segment[:, :, None] == segment[:, None, :]) & np.tri(LENGTH, dtype=bool)
    arrays = [batch["tokens"], batch["position_ids"], mask[:, None], batch["targets"]]
    tokens, place, mask_, targets = (torch.tensor(a, device=device) for a in arrays)
    return tokens.long(), place.long(), mask_, targets.long()


def train(
    out: Path, *, data: str = "", steps: int = 0, threads: int = 2, resume: Path | None = None
) -> dict[str, Any]:
    """Train from the start, or from a checkpoint to the end. Returns: losses by step, and what else is to be told."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if resume is not None:
        saved = torch.load(resume, map_location=device, weights_only=True)
        data, steps, version, kept = saved["data"], saved["steps"], saved["version"], saved["kept"].cpu()
        threads = saved["threads"]
    else:
        version = headrace.open(data).dataset.version
        saved, kept = None, most_frequent(data, version)
    torch.set_num_threads(threads)  # sums depend on how many threads share them
    mixture = sources(data, version)
    loader = headrace.ShardDataset(mixture, ids="unified", length=LENGTH, batch_size=BATCH, seed=1, epochs=None)
    model = TinyGPT(kept, loader.vocabulary.size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    first = 0
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        torch.set_rng_state(saved["random"].cpu())
        first = saved["step"]
    losses: dict[int, float] = {}
    told = np.zeros((len(mixture), len(kept)), np.int64)  # targets by source, for the unigram entropy
    late: list[tuple[int, float, int]] = []  # (source, loss, targets) of every sequence of the last quarter
    worst: tuple[float, Any] = (0.0, [])
    began = time.perf_counter()
    for step, batch in zip(range(first, steps), loader):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 20, 0.05 + (steps - step) / (0.4 * steps))
        each, wanted = model(*tensors(batch, device))
        count = (wanted >= 0).sum(1)
        loss = each.sum() / count.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses[step], each = loss.item(), each.detach()

        rows, heads = np.unique(batch["cu_seqlens"][:-1] // LENGTH, return_index=True)
        for row, head in zip(rows.tolist(), heads.tolist()):
            source, targets = int(batch["samples"]["source"][head]), wanted[row][wanted[row] >= 0].cpu().numpy()
            told[source] += np.bincount(targets, minlength=len(kept))
            if step >= steps * 3 // 4:
                late.append((source, float(each[row].sum()), len(targets)))
        if step >= steps // 2 and losses[step] > worst[0]:
            row = int((each.sum(1) / count.clamp(min=1)).argmax())
            worst = losses[step], batch["samples"][batch["cu_seqlens"][:-1] // LENGTH == row]
        if step + 1 == steps // 2 and saved is None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": batch["state"]}
            fixed = {"data": data, "version": version, "kept": kept, "steps": steps, "threads": threads}
            torch.save({**state, **fixed, "random": torch.get_rng_state(), "step": step + 1}, out / "half.pt.new")
            os.replace(out / "half.pt.new", out / "half.pt")
    return {
        "losses": losses,
        "device": device,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - began,
        "sources": table(mixture, told, late),
        "entropy": entropy(told.sum(0)),
        "loss": sum(lost for _, lost, _ in late) / max(1, sum(count for *_, count in late)),
        "unknown": float(told[:, int(torch.searchsorted(kept, UNK))].sum() / told.sum()),
        "worst": [loader.why(sample) for sample in worst[1] if sample["seq"] >= 0],
    }


def entropy(counts: Any) -> float:
    """Of ids drawn with these counts, in nats: the least loss of a model that does not look at the tokens before."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def table(mixture: list[headrace.Source], told: Any, late: list[tuple[int, float, int]]) -> list[dict[str, Any]]:
    """For each source its streams, targets, unigram entropy, and the loss over the last quarter of the steps."""
    found = []
    for i, source in enumerate(mixture):
        lost, count = sum(x for s, x, _ in late if s == i), sum(n for s, _, n in late if s == i)
        line = {"streams": source.streams, "targets": int(told[i].sum()), "entropy": entropy(told[i])}
        found.append({**line, "loss": lost / count if count else None})
    return found


def harbour(out: Path) -> str:
    """The dataset of `make demo` if it is there, else the same harbour, built under `out`."""
    ready = HARBOUR.parents[1] / "demo-out" / "inline"
    if (ready / "log").is_dir():
        return str(ready)
    folder = out / "harbour"
    print(f"building the harbour of `make demo` in {folder}, which takes a minute or two", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "made").is_file():
        subprocess.run([sys.executable, HARBOUR / "generate.py", folder / "data"], check=True, stdout=sys.stderr)
        (folder / "made").touch()
    for name in ("pipeline.yaml", "tide.py"):
        shutil.copyfile(HARBOUR / name, folder / name)
    command = [sys.executable, "-m", "headrace", "build", folder / "pipeline.yaml", "--out", folder / "dataset"]
    subprocess.run([*command, "--engine", "inline"], check=True, stdout=subprocess.DEVNULL)
    return str(folder / "dataset")


def plot(whole: dict[str, Any], resumed: dict[int, float], half: int, path: Path) -> bool:
    """Both curves; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    one, other = whole["losses"], dict(list(resumed.items())[:: max(1, len(resumed) // 40)])
    width = max(1, len(one) // 15)
    means = np.convolve(list(one.values()), np.ones(width) / width, "valid")
    axes.plot(list(one), list(one.values()), lw=0.9, color="#1f6f8b", label="unbroken run")
    axes.plot(np.arange(len(means)) + width / 2, means, lw=2.2, color="#12303b", label=f"mean of {width} steps")
    axes.plot(list(other), list(other.values()), "o", ms=5, mfc="none", color="#d1495b", label="resumed, a new process")
    axes.axhline(whole["entropy"], ls="--", lw=1, color="#777777", label="unigram entropy of the data")
    axes.axvline(half, ls=":", lw=1, color="#777777", label="checkpoint")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=f"{whole['parameters']:,} parameters, every modality")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return True


def say(report: dict[str, Any], whole: dict[str, Any], resumed: dict[int, float]) -> None:
    """The report as a page of text."""
    losses = whole["losses"]
    print(f"{whole['parameters']:,} parameters on {whole['device']}, {len(losses)} steps in {whole['seconds']:.0f} s\n")
    print(f"{'step':>6} {'unbroken':>19} {'resumed':>19}")
    for step in sorted({*range(0, len(losses), max(1, len(losses) // 12)), min(resumed), max(losses)}):
        same = "equal" if resumed.get(step) == losses[step] else "DIFFERS"
        print(f"{step:6} {losses[step]:19.15f} " + (f"{resumed[step]:19.15f}  {same}" if step in resumed else ""))
    print(f"\n{'source':38} {'targets':>9} {'unigram entropy':>16} {'loss at the end':>16}")
    for line in whole["sources"]:
        late = "" if line["loss"] is None else f"{line['loss']:16.3f}"
        print(f"{', '.join(line['streams'])[:38]:38} {line['targets']:9,} {line['entropy']:16.3f} {late}")
    print(f"{'all':38} {'':9} {whole['entropy']:16.3f} {report['final_loss']:16.3f}")
    print(f"{whole['unknown']:.1%} of the targets are rare ids that share one row")
    print("\nthe worst sequence of the second half holds")
    for found in whole["worst"][:5]:
        print(f"  {found['sample']}  {found['uri']}  {found['license']}  commit {found['commit']}")
    told = "equal to the last bit" if report["equal"] else "NOT EQUAL"
    print(f"\n{report['compared']} losses of the resumed run and of the unbroken one: {told}")
    print(report["plot"] or "no plot: pip install 'headrace[plot]'")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a small GPT, resume it half way, compare the losses.")
    parser.add_argument("--data", help="a dataset; the harbour of `make demo` if none is given")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--out", type=Path, default=Path("tiny-out"), help="folder for checkpoint, losses and plot")
    parser.add_argument("--resume", type=Path, help="a checkpoint: only go on from it to the end")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.resume:
        losses = train(chosen.out, resume=chosen.resume)["losses"]
        (chosen.out / "resumed.json").write_text(json.dumps(losses))
        last = max(losses)
        print(json.dumps(losses) if chosen.json else f"steps {min(losses)} to {last}, loss {losses[last]}")
        return 0
    if chosen.steps < 4:
        raise SystemExit(f"--steps {chosen.steps}: at least 4, so that there is something to resume and to compare")
    whole = train(chosen.out, data=chosen.data or harbour(chosen.out), steps=chosen.steps, threads=chosen.threads)
    command = [sys.executable, __file__, "--resume", chosen.out / "half.pt", "--out", chosen.out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    resumed = {int(s): x for s, x in json.loads((chosen.out / "resumed.json").read_text()).items()}
    losses = whole["losses"]
    report: dict[str, Any] = {
        "first_loss": losses[0],
        "final_loss": whole["loss"],
        "compared": len(resumed),
        "equal": resumed == {step: loss for step, loss in losses.items() if step >= chosen.steps // 2},
        "plot": str(chosen.out / "losses.png"),
    }
    if not plot(whole, resumed, chosen.steps // 2, chosen.out / "losses.png"):
        report["plot"] = None
    if chosen.json:
        print(json.dumps({**report, **whole, "resumed": resumed}))
    else:
        say(report, whole, resumed)
    return 0 if report["equal"] or whole["device"] != "cpu" else 1


if __name__ == "__main__":
    sys.exit(main())
