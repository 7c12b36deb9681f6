"""One process of a ZeRO-3 training, started by torchrun: trains, keeps the logits that it computes itself, and exports.

Arguments: model folder, cache folder, output folder.
"""

import sys
from pathlib import Path

import torch

from stages.language_model.folder import load_tokenizer
from stages.logit_cache.reader import LogitCache
from stages.student.distillation import Distillation
from stages.student.export import export_model
from stages.student.settings import StudentSettings
from stages.student.training import StudentTrainer


def main(model: Path, cache: Path, out: Path) -> None:
    """Train two steps; process 0 writes out/logits.pt, of the network in memory, and out/model."""
    settings = StudentSettings(batch_rows=4, epochs=1, zero_stage=3, learning_rate=1e-2, processes=2)
    trainer = StudentTrainer(model, Distillation(LogitCache(cache), settings), settings)
    trainer.train(out)
    with torch.no_grad():
        ids = torch.arange(3, 23, device=trainer.engine.device)[None]
        logits = trainer.engine(input_ids=ids, use_cache=False).logits.cpu()
    weights = trainer.consolidated_weights()
    if trainer.rank == 0:
        torch.save(logits, out / "logits.pt")
        export_model(trainer.module, weights, load_tokenizer(model), model, out / "model", "card")
    trainer.wait_for_all()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
