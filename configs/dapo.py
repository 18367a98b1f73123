"""NousCoder-14B with DAPO (arXiv:2503.14476): Qwen3-14B on competitive programming, 48 GPUs.

    python scripts/train.py --config configs/dapo.py --run-dir /runs/dapo \
        --mesh.coordinator-address HOST:PORT --rollout.urls http://HOST:30000 ...

Cost: the published run took 48 B200 for 4 days. Result: not run yet. (Published, LiveCodeBench v6 at 81,920 tokens:
60.79 before, 67.87 after.) data/rlvr_coding_problems.jsonl and data/held_out.jsonl are for you to prepare.

Sources: [N] NousResearch's blog, model card and released environment (NousResearch/atropos,
environments/code_execution_server/coding_server.py at 296a0bc5); [D] DeepCoder's released training scripts
(agentica-org/rllm at 874daa4); [P] the paper above and verl's recipe for it; [O] our own choice: not published.
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
    ServerConfig,
    TrainConfig,
    VerifierConfig,
)

# [N] coding_server.py lines 26-62, word for word: these texts are a data format, the model was trained on them.
SYSTEM_PROMPT = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
STDIN_PROMPT = (
    "Question: {statement}\n\n"
    "Read the inputs from stdin, solve the problem, and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs it reads the "
    "inputs runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
    "### Answer: (use the provided format with backticks)\n\n"
)
# A problem with starter code has the paragraph of {starter_code}, one without that of {function}, which is our own.
FUNCTION_PROMPT = (
    "Question: {statement}\n\n"
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{starter_code}\n```\n\n"
    "Write {function}, which returns the answer, and enclose your code within delimiters as follows.\n"
    "```python\n# YOUR CODE HERE\n```\n\n"
    "### Answer: (use the provided format with backticks)\n\n"
)


def get_config() -> TrainConfig:
    return TrainConfig(
        name="dapo",
        run_dir="",
        num_steps=600,  # [N] a cap; how many were run is not published
        seed=0,
        min_gpus=48,
        fallback_config="configs/tiny.py",
        model=ModelConfig(
            path="Qwen/Qwen3-14B",
            compute_dtype="bfloat16",
            attention="pallas",
            remat="layer",
            logits_mib=256,  # [O]
            yarn_factor=1.0,
            yarn_original_tokens=32768,
        ),
        # 5120, 17408 and 151936 do not divide by 3, so the 3 of 48 = 3 x 16 is on data. 6 processes: 8 GPUs a machine.
        mesh=MeshConfig(data=3, fsdp=16, tensor=1, num_processes=6, coordinator_address=""),
        data=DataConfig(
            problems="data/rlvr_coding_problems.jsonl",
            held_out="data/held_out.jsonl",
            system_prompt=SYSTEM_PROMPT,
            stdin_prompt=STDIN_PROMPT,
            function_prompt=FUNCTION_PROMPT,
            enable_thinking=True,  # [N] Qwen3's own template, thinking on
            extract_rule="markdown",  # [O] the published one is "original"
            max_prompt_tokens=2048,  # [D]
        ),
        rollout=RolloutConfig(
            source="problems",
            source_url="",
            engine="sglang",
            urls=("http://127.0.0.1:30000",),  # [O] a server a machine, on the machine's own address
            groups_per_step=96,  # [O] near DeepCoder's 128, a multiple of 6 processes
            group_size=8,  # [N]
            max_completion_tokens=30720,  # [N] 32,768 of prompt and completion together, less max_prompt_tokens
            temperature=1.0,  # [N]
            top_p=1.0,  # [N]
            top_k=0,  # [N] not sent
            max_staleness=2,  # [N] max_batches_offpolicy
            on_new_weights="in_place",  # [O]
            num_slots=128,  # [O]
            decode_chunk_tokens=16,  # used by the embedded engine only
            batch_invariant=False,
            request_timeout_s=2400.0,  # [N]
            server_timeout_s=60.0,  # [O]
            outage_limit_s=1800.0,  # [O]
        ),
        server=ServerConfig(
            python="",
            num_servers=8,  # [O] scripts/serve.py on each machine of engines: a server a GPU
            host="0.0.0.0",
            port=30000,
            device="cuda",
            tensor=1,
            placement="split",  # [O] as scripts/plan.py finds it fastest
            memory_fraction=0.85,  # [O]
            trainer_memory_fraction=0.0,
            memory_saver=False,
            deterministic=False,
            flags=(),
            start_timeout_s=1800.0,  # [O]
        ),
        verifier=VerifierConfig(
            backend="docker",
            docker_hosts=(),  # [O] the host of DOCKER_HOST
            image="nouscoder-verifier",
            runtime="",
            num_workers=100,  # [N] a semaphore of 100
            rollouts_per_sandbox=1,  # [N] one container a rollout
            default_time_limit_s=15.0,  # [N]
            wall_factor=3.0,  # [O]
            memory_limit_mib=4096,  # [N]
            output_limit_mib=8,  # [O]
            max_processes=64,  # [O]
            max_retries=3,  # [N]
            outage_limit_s=1800.0,  # [O]
        ),
        experience=ExperienceConfig(
            reward_accepted=1.0,  # [N]
            reward_rejected=-1.0,  # [N]
            advantage="group_mean_std",  # [N]
            std_ddof=0,  # [O] as Atropos' example trainer; verl takes 1, which scales all advantages by sqrt(7/8)
            overlong="zero_advantage",  # [N]
            drop_equal_groups=True,  # [N]
            max_draws_per_batch=10,  # [P] max_num_gen_batches
            short_batch="stop",  # [P]
            row_tokens=32768,  # one row holds the longest sequence
            packed_rows=True,
            rows_per_micro_batch=48,  # one row a GPU
            updates_per_batch=2,  # [D] 128 prompts in mini-batches of 64
        ),
        loss=LossConfig(
            name="dapo",
            clip_low=0.2,  # [P]
            clip_high=0.28,  # [P]
            dual_clip=0.0,  # [P] not in the paper; verl's recipe uses 10
            old_logprobs="recomputed",  # [O]
            correction="truncated",  # [O]
            min_ratio=0.0,
            max_ratio=2.0,  # [O] the usual bound of truncated importance sampling
            max_drift_mean=0.05,  # [O] a guess until a run of this size has measured its own
            max_drift=0.0,  # [O] off: a single unlikely token may differ a lot in bfloat16
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-6,  # [P] [D]
            warmup_updates=10,  # [P]
            moments="float32",
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            weight_decay=0.1,  # [P]
            max_grad_norm=1.0,  # [D]
            max_skipped=3,
        ),
        evaluation=EvaluationConfig(
            every_steps=10,  # [N]
            samples_per_problem=16,  # [N]
            samples_between=0,
            temperature=0.6,  # [N]
            top_p=0.95,  # [N]
            top_k=0,  # [N] not sent
            max_completion_tokens=38912,  # [N] 40,960 in all, less max_prompt_tokens
        ),
        checkpoint=CheckpointConfig(
            every_steps=10,
            keep=3,
            keep_best=1,
            export_dtype="bfloat16",
            weights_dir="",
        ),
        logging=LoggingConfig(tensorboard=True, wandb=False),
    )
