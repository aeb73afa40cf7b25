"""``python -m tests.zoo [NAME …] [--results FILE] [--markdown FILE]``: docs/models.md.

With ``--results`` every proof is appended to a file of JSON lines, and what stands there already is
not proved again: a run of hours may be interrupted, and be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .model import MissingPackage, ZooModel
from .proof import LEAST_SHARE, Proof, prove
from .registry import ZOO

TITLE = """# Networks that edgeprune is tried on

Made by `python -m tests.zoo --results docs/models.jsonl --markdown docs/models.md`; do not
edit. Each network is exported, compared with its source on random input (neutral error), and
compacted for ten choices of masks from 0 to 95 % of each group (masked error: masked against
compacted). Errors are relative to the largest output; 1e-4 passes. The prunable share counts the
parameters of operators that read or write units which can go: at least 90 % for convolutional
networks, 60 % for the others.

| network | exporter | parameters | prunable | groups | frozen | neutral | masked | export, s |
|---|---|---|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove the networks, print a line for each, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--masks", type=int, default=10)
    chosen = parser.parse_args(arguments)
    proofs, missing = _read(chosen.results), []
    for name in chosen.names or list(ZOO):
        known = {proof.exporter for proof in proofs if proof.name == name}
        try:
            for proof in _proofs(ZOO[name], chosen.masks, known):
                proofs.append(proof)
                _append(chosen.results, proof)
                print(_row(proof), "" if proof.ok else f"FAILS {proof.failures}", flush=True)
        except MissingPackage as error:
            missing.append(f"{name}: {error}")
            print(missing[-1], flush=True)
    if chosen.markdown:
        chosen.markdown.write_text(_page(proofs, missing))
    return 0 if all(proof.ok for proof in proofs) else 1


def _proofs(model: ZooModel, masks: int, known: set[str]) -> Iterator[Proof]:
    """Those of a network that are not known yet, by the exporter's name."""
    first = "dynamo" if model.build is not None else "ONNX file"
    if first not in known:
        yield prove(model, masks=masks)
    if model.build is not None and "TorchScript" not in known:
        yield prove(model, dynamo=False, masks=masks)


def _read(path: Path | None) -> list[Proof]:
    if path is None or not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    lists = ("frozen", "failures")
    return [Proof(**{k: _tuples(v) if k in lists else v for k, v in f.items()}) for f in found]


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _append(path: Path | None, proof: Proof) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(asdict(proof)) + "\n")


def _row(proof: Proof) -> str:
    cells = [
        *(proof.name, proof.exporter, f"{proof.parameters:,}", f"{proof.prunable_share:.1%}"),
        *(proof.groups, len(proof.frozen), f"{proof.neutral_error:.1e}"),
        *(f"{proof.masked_error:.1e}", f"{proof.export_s:.1f}"),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _page(proofs: Sequence[Proof], missing: Sequence[str]) -> str:
    order = list(ZOO)
    proofs = sorted(proofs, key=lambda proof: order.index(proof.name))
    rows = "\n".join(_row(proof) for proof in proofs)
    below = [p for p in proofs if p.prunable_share < LEAST_SHARE[p.family]]
    notes = [f"- {p.name} ({p.exporter}) is below its family's share." for p in below]
    notes += [f"- not tried: {line}" for line in missing]
    absent = [name for name in ZOO if name not in {proof.name for proof in proofs}]
    notes += [f"- not in this run: {', '.join(absent)}."] if absent else []
    frozen = [
        f"- **{p.name}**: " + "; ".join(f"`{group}`: {why}" for group, why in p.frozen)
        for p in proofs
        if p.frozen and p.exporter != "TorchScript"
    ]
    parts = [TITLE + rows]
    parts += ["\n".join(notes)] if notes else []
    parts += ["## What is frozen, and why\n\n" + "\n".join(frozen)]
    return "\n\n".join(parts) + "\n"


sys.exit(main())
