"""A Qwen3 of 1.1 million parameters learns to write short programs: the whole system on a laptop.

    make train          or          python scripts/train.py --config configs/tiny.py

Cost: about 4 minutes on 2 CPU cores, no GPU. Result: see README.md.
The problems, the tokenizer and the warm-started policy in configs/tiny/ are this project's own; `make tiny` remakes
them.
"""

from nouscoder_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExperienceConfig,
    LoggingConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RolloutConfig,
    TrainConfig,
    VerifierConfig,
)


def get_config() -> TrainConfig:
    return TrainConfig(
        name="tiny",
        run_dir="",
        num_steps=24,
        seed=0,
        min_gpus=0,
        fallback_config="",
        model=ModelConfig(
            path="tiny/policy",
            compute_dtype="float32",
            attention="reference",
            remat="none",
            logits_mib=64,
        ),
        mesh=MeshConfig(data=1, fsdp=1, tensor=1, num_processes=1, coordinator_address=""),
        data=DataConfig(
            problems="tiny/train.jsonl",
            held_out="tiny/held_out.jsonl",
            system_prompt="",
            stdin_prompt="{statement}",
            function_prompt="{statement} Write the function {fn_name}.",
            enable_thinking=False,
            max_prompt_tokens=2176,  # the tiny problems take about 50; real ones, at 2 letters a token, far more
        ),
        rollout=RolloutConfig(
            engine="embedded",
            urls=(),
            groups_per_step=16,
            group_size=8,
            max_completion_tokens=128,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_staleness=0,
            num_slots=64,
            decode_chunk_tokens=8,
            request_timeout_s=120.0,
        ),
        verifier=VerifierConfig(
            backend="auto",
            docker_hosts=(),
            image="nouscoder-verifier",
            runtime="",
            num_workers=2,
            rollouts_per_sandbox=64,
            default_time_limit_s=2.0,
            wall_factor=3.0,
            memory_limit_mib=256,
            output_limit_mib=1,
            max_processes=16,
            max_retries=2,
            outage_limit_s=1800.0,
        ),
        experience=ExperienceConfig(
            reward_accepted=1.0,
            reward_rejected=-1.0,
            advantage="group_mean_std",
            std_ddof=0,
            overlong="zero_advantage",
            drop_equal_groups=True,
            max_draws_per_batch=3,
            short_batch="train",
            row_tokens=2304,
            packed_rows=True,
            rows_per_micro_batch=8,
            updates_per_batch=2,
        ),
        loss=LossConfig(
            name="dapo",
            clip_low=0.2,
            clip_high=0.28,
            dual_clip=0.0,
            old_logprobs="behavior",
            correction="none",
            min_ratio=0.0,
            max_ratio=0.0,
            max_drift_mean=1e-3,
            max_drift=0.05,
        ),
        optimizer=OptimizerConfig(
            learning_rate=4e-4,
            warmup_updates=2,
            moments="float32",
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.0,
            max_grad_norm=1.0,
        ),
        evaluation=EvaluationConfig(
            every_steps=0,
            samples_per_problem=16,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_completion_tokens=128,
        ),
        checkpoint=CheckpointConfig(every_steps=8, keep=2, export_dtype="float32"),
        logging=LoggingConfig(tensorboard=True),
    )
