"""Every setting of a training run, with TRL's names where TRL has one, and which of them go together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from odkd.checks import check, make_phases
from odkd.objectives import objective


class TrainConfig(BaseModel):
    """One run. Names in other tools: `odkd objectives`; formulas: `odkd/objectives.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_name_or_path: str = Field(
        description="Folder of the student, in Hugging Face format, or embedded:WORLD/MODEL."
    )
    teacher_model_name_or_path: str = Field(description="Folder of the teacher; same vocabulary.")
    dataset_name: str = Field(description="A built-in world (its train split), or a prompts.jsonl file.")
    output_dir: str = Field(
        description="Folder for the trained student, its log and checkpoints; a killed run continues there."
    )

    # What is minimised
    objective: str = Field("reverse_kl", description="What is minimised at each token; see `odkd objectives`.")
    off_policy_objective: str | None = Field(None, description="Another one for completions the student did not write.")
    forward_weight: float | None = Field(
        None, ge=0, le=1, description="blend: weight of forward KL; 0 is reverse KL, 1 is forward KL."
    )
    beta: float | None = Field(
        None, ge=0, le=1, description="jsd: 0 is forward KL, 1 is reverse KL (the direction of TRL and GKD)."
    )
    jsd_scale: Literal["raw", "unit"] | None = Field(
        None, description="jsd: unit divides by beta (1 − beta), so that the gradient does not vanish at the ends."
    )
    skew_alpha: float | None = Field(
        None, ge=0, lt=1, description="skew_*: share of the other model in the mixture; 0 is plain KL."
    )
    head_mass: float | None = Field(None, gt=0, lt=1, description="adaptive_kl: teacher mass that makes the head.")
    gate: Literal["absolute", "quantile", "soft"] | None = Field(
        None, description="entropy_gated: how a position is judged open."
    )
    gate_threshold: float | None = Field(None, ge=0, description="entropy_gated, eopd: teacher entropy in nats.")
    gate_quantile: float | None = Field(
        None, gt=0, lt=1, description="entropy_gated with gate quantile: of the update's teacher entropies."
    )
    gate_width: float | None = Field(None, gt=0, description="entropy_gated with gate soft: nats.")
    gate_weight: float | None = Field(None, ge=0, description="entropy_gated, eopd: weight of the gated forward KL.")
    gate_normalizer: Literal["valid", "gated"] | None = Field(
        None, description="entropy_gated, eopd: divide the gated term by all tokens or by the gated ones."
    )
    loss_top_k: int | None = Field(None, ge=1, description="topk_*, eopd: teacher's tokens that are told apart.")
    epsilon: float | None = Field(
        None, gt=0, lt=1, description="pg_reverse_kl, eopd: clip the importance ratio to 1 ± epsilon."
    )
    future_weight: float | None = Field(
        None, ge=0, le=1, description="pg_reverse_kl: discount γ of later tokens' terms; 0 looks at each token alone."
    )
    future_normalize: bool | None = Field(
        None, description="pg_reverse_kl: mean of the later terms instead of their sum (MiniLLM)."
    )
    single_step: Literal["sampled", "baseline", "exact"] | None = Field(
        None, description="pg_reverse_kl: how a token's own term is taken."
    )
    loss_temperature: float = Field(
        1.0, gt=0, description="Divides both models' logits in the loss (not squared back in)."
    )

    # Whose completions are learnt from
    lmbda: float = Field(1.0, ge=0, le=1, description="Chance that a step learns from the student's own completions.")
    seq_kd: bool = Field(False, description="The other steps learn from a fixed set of the teacher's completions.")
    corpus: str | None = Field(None, description="The other steps learn from this file: {prompt, completion} a line.")
    teacher_samples_per_prompt: int = Field(1, ge=1, description="Size of the teacher's fixed set of completions.")
    teacher_mixed_alpha: float = Field(
        0.0, ge=0, lt=1, description="Sample rollouts from α · teacher + (1 − α) · student, with importance weights."
    )
    num_generations: int = Field(1, ge=1, description="Completions per prompt.")
    phases: tuple[dict[str, Any], ...] = Field(
        (), description="Settings by turns: [{steps: 0.2, lmbda: 0, …}, …]; steps below 1 are a share of max_steps."
    )
    temperature: float = Field(1.0, gt=0, description="Of the rollouts; the loss compares untempered models.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Of the rollouts; below 1 the tail that one wants to keep is never sampled."
    )
    top_k: int = Field(0, ge=0, description="Of the rollouts; 0 keeps every token.")
    use_vllm: bool = Field(False, description="The student's completions through vLLM, in this process.")
    vllm_gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="use_vllm: share of a GPU's memory that vLLM takes; 0.3 by default."
    )
    max_completion_length: int = Field(256, ge=1, description="Tokens; a longer rollout is cut, without an end.")

    # How the weights move
    learning_rate: float = Field(1e-6, gt=0, description="Peak, of AdamW.")
    lr_scheduler_type: Literal["constant", "linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="After the warm-up; linear and cosine end at 0."
    )
    warmup_steps: float = Field(
        0, ge=0, description="Steps of linear rise to learning_rate; below 1 a share of max_steps."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Of AdamW.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Of AdamW.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Of AdamW.")
    max_grad_norm: float = Field(1.0, ge=0, description="The gradient is scaled down to this norm; 0 never.")
    max_steps: int = Field(-1, description="Updates.")
    num_train_epochs: float | None = Field(
        None, gt=0, description="Instead of max_steps: times that every prompt is asked."
    )
    per_device_train_batch_size: int = Field(8, ge=1, description="Completions in memory at once, on each device.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Such batches per update; the loss is a mean over all their tokens."
    )
    disable_dropout: bool = Field(False, description="Train without dropout.")
    use_peft: bool = Field(False, description="Train LoRA adapters; the merged model is saved as well.")
    lora_r: int = Field(16, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(32, ge=1, description="Their scale is lora_alpha / lora_r.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="On their input.")
    lora_target_modules: tuple[str, ...] | str | None = Field(
        None, description="Names of layers; all linear layers but the head by default."
    )

    # How it runs
    bf16: bool = Field(False, description="Run both models in bfloat16; weights stay float32, divergences float64.")
    fused: bool | Literal["auto"] = Field(
        "auto",
        description="Form loss and gradient from hidden states without logits, where the objective can: auto from a "
        "vocabulary of 512 tokens, where it is faster; true always; false never.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations instead of keeping them.")
    seed: int = Field(
        42, ge=0, description="Of prompts, coin, rollouts and dropout; the same seed gives the same weights."
    )
    device: str = Field("auto", description="cpu, cuda, or auto for a GPU where there is one.")
    save_steps: int = Field(100, ge=1, description="Steps between checkpoints; so many are lost at most.")
    report_to: tuple[str, ...] | str = Field("none", description="tensorboard, wandb; log.jsonl is always written.")

    # What is watched
    entropy_threshold: float = Field(
        0.8, gt=0, description="Nats from which a position counts as high-entropy in the log."
    )
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between probes: samples on fixed prompts, graded and judged."
    )
    probe_task: str | None = Field(
        None, description="World (its selection split), task or prompts file; the world trained on by default."
    )
    probe_grader: str | None = Field(None, description="For a prompts file: exact, numeric, choice …")
    probe_prompts: int = Field(32, ge=2, description="Fixed prompts of a probe.")
    probe_samples: int = Field(16, ge=2, description="Completions of each.")
    rules: str | None = Field(None, description="Rules file of `odeval gate` that judges every probe.")
    max_coverage_gap: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Only probes with teacher's pass@k − student's up to this, at the largest k, may be best.",
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after so many probes without a better one."
    )
    load_best_model_at_end: bool = Field(
        False, description="Leave the best probe's student in output_dir, not the last."
    )

    _phases: tuple[tuple[int, TrainConfig], ...] = PrivateAttr(())
    _notes: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _settings_go_together(self) -> TrainConfig:
        check(self)
        self._phases = make_phases(self)
        return self

    def used_dials(self) -> list[str]:
        """Dials that the objectives of this run read."""
        names = [self.objective, *([self.off_policy_objective] if self.off_policy_objective else [])]
        return list(dict.fromkeys(dial for name in names for dial in objective(name).dials))

    def dials(self, name: str | None = None) -> dict[str, Any]:
        """What an objective reads: as set, else its own defaults.

        Args:
            name: Of the objective; this run's by default.
        """
        found = objective(name or self.objective).dials
        return {
            dial: default if getattr(self, dial) is None else getattr(self, dial) for dial, default in found.items()
        }

    def at(self, step: int) -> TrainConfig:
        """The configuration that holds at a step: its phase's, or this one where there are no phases."""
        started = [config for start, config in self._phases if start <= step]
        return started[-1] if started else self

    def with_max_steps(self, steps: int) -> TrainConfig:
        """The same with max_steps known, and num_train_epochs spent."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        found = TrainConfig(**{**given, "max_steps": steps, "num_train_epochs": None})
        found._notes = self._notes
        return found
