"""What `rence_lightning.rollouts.VLLMEngine` uses of vLLM, as data: names, arguments, values and the files they are in.

`test_vllm_sources.py` looks for each in the sources of the supported releases, and `recording_vllm.py` is a stand-in
for `vllm.LLM` that has these names and no others, so that the engine cannot use what is not written here.
"""

from contracts.vllm_reading import Calls, Exports, Field, Key, Mentions, Parameter, Requirement, Returns, Value

LLM = "vllm/entrypoints/llm.py"
ENGINE = "vllm/v1/engine/llm_engine.py"
CORE = "vllm/v1/engine/core.py"
CLIENT = "vllm/v1/engine/core_client.py"
ARGUMENTS = "vllm/engine/arg_utils.py"
MODEL_CONFIG = "vllm/config/model.py"
SAMPLING = "vllm/sampling_params.py"
OUTPUTS = "vllm/outputs.py"
EXECUTOR = "vllm/v1/executor/abstract.py"
LAUNCHER = "vllm/v1/executor/uniproc_executor.py"
WORKER = "vllm/v1/worker/gpu_worker.py"
RELOAD = "vllm/model_executor/model_loader/reload/inplace.py"

SETTINGS = (
    "dtype",
    "runner",
    "load_format",
    "skip_tokenizer_init",
    "max_num_seqs",
    "logprobs_mode",
    "enforce_eager",
    "distributed_executor_backend",
    "tensor_parallel_size",
    "max_model_len",
    "gpu_memory_utilization",
    "enable_sleep_mode",
    "enable_chunked_prefill",
    "kv_cache_memory_bytes",
    "hf_overrides",
)
"""Arguments of `vllm.LLM` that the engine sets."""

NAMED_IN_DOCUMENTATION = ("sleep_mode_offload_cudagraph",)
"""Further arguments, which the documentation tells users to set."""

METHODS: dict[str, tuple[str, ...]] = {
    "collective_rpc": ("method", "kwargs"),
    "reset_prefix_cache": (),
    "sleep": ("level",),
    "wake_up": ("tags",),
}
"""Methods of `vllm.LLM`, with the arguments that the engine gives them."""

QUEUE_METHODS: dict[str, tuple[str, ...]] = {
    "add_request": ("request_id", "prompt", "params"),
    "abort_request": ("request_ids",),
    "step": (),
    "get_num_unfinished_requests": (),
}
"""Methods of `LLM.llm_engine`."""

SAMPLING_FIELDS = (
    "n",
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "logprobs",
    "flat_logprobs",
    "stop_token_ids",
    "ignore_eos",
    "detokenize",
    "output_kind",
)
"""Fields of `SamplingParams`."""

REQUEST_FIELDS = ("request_id", "outputs")
COMPLETION_FIELDS = ("index", "token_ids", "logprobs", "finish_reason")

RPC_METHODS: dict[str, tuple[str, ...]] = {"reload_weights": ("weights_iterator",)}
"""Methods of workers that `collective_rpc` calls."""

TAGS = ("weights", "kv_cache")
ENVIRONMENT = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "VLLM_USE_V2_MODEL_RUNNER")
"""Variables that the engine sets, or that the documentation tells users to set."""

LEFT_OUT = "not loaded"
"""Words of the warning of weights that a push has left out."""

CONTRACT: list[Requirement] = [
    Exports("vllm/__init__.py", "LLM"),
    Exports("vllm/__init__.py", "SamplingParams"),
    # the start
    Parameter(LLM, "LLM.__init__", "model"),
    Calls(LLM, "LLM.__init__", "EngineArgs", "**kwargs"),
    *(Field(ARGUMENTS, "EngineArgs", name) for name in (*SETTINGS, *NAMED_IN_DOCUMENTATION)),
    *(Value(MODEL_CONFIG, "ModelDType", dtype) for dtype in ("float32", "bfloat16", "float16")),
    Value("vllm/config/scheduler.py", "RunnerType", "generate"),
    Value(MODEL_CONFIG, "LogprobsMode", "processed_logprobs"),
    Value("vllm/model_executor/model_loader/__init__.py", "_LOAD_FORMAT_TO_MODEL_LOADER", "dummy"),
    Value("vllm/config/parallel.py", "DistributedExecutorBackend", "external_launcher"),
    *(Mentions(LAUNCHER, "ExecutorWithExternalLauncher._distributed_args", name) for name in ("RANK", "LOCAL_RANK")),
    *(Key("vllm/envs.py", "environment_variables", name) for name in ENVIRONMENT),
    # the output projection in float32
    Field(MODEL_CONFIG, "ModelConfig", "head_dtype"),
    Mentions(MODEL_CONFIG, "_get_head_dtype", "head_dtype"),
    Mentions("vllm/model_executor/layers/logits_processor.py", "LogitsProcessor._apply_head", "head_dtype"),
    # the engine and its queue
    Field(LLM, "LLM", "llm_engine"),
    Field(LLM, "LLM", "model_config"),
    Field(MODEL_CONFIG, "ModelConfig", "max_model_len"),
    *(Parameter(LLM, f"LLM.{method}", name) for method, names in METHODS.items() for name in (*names, None)),
    *(Parameter(ENGINE, f"LLMEngine.{name}", each) for name, them in QUEUE_METHODS.items() for each in (*them, None)),
    Returns(LLM, "LLM.reset_prefix_cache", "bool"),
    Returns(LLM, "LLM.wake_up", "bool"),
    # weights
    *(
        Parameter(path, f"{runner}.reload_weights", "weights_iterator")
        for path, runner in (
            ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner"),
            ("vllm/v1/worker/gpu/model_runner.py", "GPUModelRunner"),
        )
    ),
    Mentions(WORKER, "Worker.reload_weights", "reload_weights"),
    Mentions(RELOAD, "reload_weights", LEFT_OUT),
    Calls(RELOAD, None, "init_logger", "__name__"),
    # sleep
    *(Value(EXECUTOR, "SLEEP_TAGS", tag) for tag in TAGS),
    *(Parameter(WORKER, f"Worker.{name}", argument) for name, argument in (("sleep", "level"), ("wake_up", "tags"))),
    # requests and responses
    *(Field(SAMPLING, "SamplingParams", name) for name in SAMPLING_FIELDS),
    Field(SAMPLING, "RequestOutputKind", "FINAL_ONLY"),
    Mentions("vllm/v1/engine/parallel_sampling.py", "ParentRequest._get_child_sampling_params", "index"),
    Field("vllm/inputs/llm.py", "TokensPrompt", "prompt_token_ids"),
    *(Field(OUTPUTS, "RequestOutput", name) for name in REQUEST_FIELDS),
    *(Field(OUTPUTS, "CompletionOutput", name) for name in COMPLETION_FIELDS),
    Field("vllm/logprobs.py", "FlatLogprobs", "logprobs"),
    *(Value("vllm/v1/engine/__init__.py", "FINISH_REASON_STRINGS", reason) for reason in ("stop", "length")),
    # the end
    Field(ENGINE, "LLMEngine", "engine_core"),
    Parameter(CLIENT, "InprocClient.shutdown", None),
    Mentions(CORE, "EngineCore.shutdown", "cleanup_dist_env_and_memory"),
]
