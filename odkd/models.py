"""Student and teacher of a run: loaded, compared, and where wanted fitted with LoRA adapters."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from odeval.engines.hf_model import HfModel, check_same_vocabulary
from odeval.errors import OdevalError
from odkd.checkpoint import save
from odkd.config import TrainConfig

Named = dict[str, torch.nn.Parameter]


class Pair:
    """The two models.

    Attributes:
        student: Trained; float32.
        teacher: Frozen, in evaluation mode.
        trainable: Name → parameter that is updated: all of the student's, or those of its adapters.
    """

    def __init__(self, config: TrainConfig, device: str) -> None:
        self.student = HfModel(config.model_name_or_path, device, dtype="float32")
        self.teacher = HfModel(config.teacher_model_name_or_path, device, dtype="bfloat16" if config.bf16 else "auto")
        names = f"{self.teacher.name} / {self.student.name}"
        check_same_vocabulary(self.teacher.vocabulary, self.student.vocabulary, names)
        self._check_different()
        self.teacher.model.requires_grad_(False)
        self._adapted: Any = _with_adapters(self.student, config) if config.use_peft else None
        if config.gradient_checkpointing:
            model = self.student.model
            enable = getattr(
                model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
            )  # its new name
            enable({"use_reentrant": False})
        own = self.student.model.named_parameters()
        self.trainable: Named = {name: parameter for name, parameter in own if parameter.requires_grad}

    def _check_different(self) -> None:
        """A teacher that is the student makes every exact loss 0, and looks like a run that has converged."""
        own, other = (model.ref() for model in (self.student, self.teacher))
        if own.fingerprint == other.fingerprint:
            raise OdevalError(
                f"teacher {self.teacher.name} and student {self.student.name} hold the same weights: there is nothing "
                "to learn; name another teacher_model_name_or_path"
            )

    def write(self, folder: Path) -> None:
        """Save the student as a whole model; with adapters those too, in `adapter/`."""
        if self._adapted is None:
            save(self.student.model, self.student.tokenizer, folder)
            return
        self._adapted.save_pretrained(folder / "adapter")
        merged = copy.deepcopy(self._adapted).merge_and_unload()
        save(merged, self.student.tokenizer, folder)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is trained, for a checkpoint."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trainable.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, parameter in self.trainable.items():
            parameter.copy_(tensors[name])


def _with_adapters(student: HfModel, config: TrainConfig) -> Any:
    try:
        import peft
    except ImportError:
        raise OdevalError("use_peft: peft is not installed; pip install 'odeval[train]'") from None
    wanted = config.lora_target_modules
    if isinstance(wanted, str) and wanted != "all-linear":
        wanted = tuple(name.strip() for name in wanted.split(","))
    settings = peft.LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, task_type="CAUSAL_LM",
        target_modules=list(wanted) if isinstance(wanted, tuple) else wanted or "all-linear",
    )  # fmt: skip
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers, not the user's concern
        torch.manual_seed(config.seed)  # the adapters start at random
        try:
            return peft.get_peft_model(student.model, settings)
        except ValueError as error:
            raise OdevalError(
                f"lora_target_modules {config.lora_target_modules}: {str(error).splitlines()[0]}"
            ) from None
